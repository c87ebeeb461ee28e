"""What the operator counts, for /metrics."""

from prometheus_client import Counter, Gauge, Histogram

PASSES = Counter(
    "infrasight_operator_reconciles", "Passes over the whole installation, by result.", ["result"]
)
PASS_SECONDS = Histogram(
    "infrasight_operator_reconcile_seconds", "How long a pass took, writing included."
)
CALLS = Counter(
    "infrasight_operator_api_calls",
    "Calls of the Kubernetes API by the reconciler.",
    ["verb", "kind", "result"],
)
NODES = Gauge("infrasight_operator_nodes", "Nodes of the installation, by state.", ["state"])
CONNECTED = Gauge("infrasight_operator_connected_agents", "Agents whose stream is open.")
REPORTS = Counter("infrasight_operator_reports", "Reports of agents, by result.", ["result"])
RESTARTS = Counter(
    "infrasight_operator_pod_restarts",
    "Agents' pods that were deleted for the sake of new packages.",
)
KUBE_EVENTS_DROPPED = Counter(
    "infrasight_operator_kube_events_dropped",
    "Kubernetes Events that were too many at once to be posted.",
)
SPREAD_SECONDS = Histogram(
    "infrasight_operator_policy_spread_seconds",
    "From the moment that a changed policy was seen to the last NodeProbes written.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
