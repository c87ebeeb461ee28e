"""The operator's metrics."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("infrasight_operator_reconciles", "Reconcile passes, by result.", ["result"])
RECONCILE_SECONDS = Histogram(
    "infrasight_operator_reconcile_seconds", "Duration of a reconcile pass, including writes."
)
API_CALLS = Counter(
    "infrasight_operator_api_calls",
    "Calls of the Kubernetes API, without those of the watch.",
    ["verb", "kind", "result"],
)
NODES = Gauge("infrasight_operator_nodes", "Nodes of the installation, by state.", ["state"])
CONNECTED_AGENTS = Gauge("infrasight_operator_connected_agents", "Agents with an open stream.")
REPORTS = Counter("infrasight_operator_reports", "Agent reports, by result.", ["result"])
POD_RESTARTS = Counter(
    "infrasight_operator_pod_restarts", "Agent pods deleted because their packages changed."
)
KUBE_EVENTS_DROPPED = Counter(
    "infrasight_operator_kube_events_dropped",
    "Kubernetes Events not posted because one pass produced too many.",
)
POLICY_SPREAD_SECONDS = Histogram(
    "infrasight_operator_policy_spread_seconds",
    "Time from the watch event of a changed policy to the last NodeProbes write.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
