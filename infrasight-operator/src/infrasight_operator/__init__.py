"""InfraSight's Kubernetes operator: turns policies into the agents' configurations."""

__version__ = "0.1.0"
