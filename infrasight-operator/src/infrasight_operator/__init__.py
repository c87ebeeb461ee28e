"""InfraSight's Kubernetes operator: which probes run on which nodes, and the agents that run them."""

__version__ = "0.1.0"
