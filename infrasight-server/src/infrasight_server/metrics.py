"""What the server counts."""

import re

from prometheus_client import Counter, Gauge, Histogram

BATCHES_RECEIVED = Counter("infrasight_server_batches_received", "Batches that arrived.", ["probe"])
ROWS_RECEIVED = Counter(
    "infrasight_server_rows_received", "Rows that arrived, as their batches say.", ["probe"]
)
ROWS_STORED = Counter("infrasight_server_rows_stored", "Rows that the store has.", ["probe"])
BATCHES_STORED = Counter(
    "infrasight_server_batches_stored", "Batches that the store has.", ["probe"]
)
BATCHES_REPEATED = Counter(
    "infrasight_server_batches_repeated",
    "Batches sent again that the store had already.",
    ["probe"],
)
BATCHES_REJECTED = Counter(
    "infrasight_server_batches_rejected", "Batches rejected.", ["probe", "reason"]
)
ROWS_REJECTED = Counter(
    "infrasight_server_rows_rejected",
    "Rows of rejected batches, as the batches said.",
    ["probe", "reason"],
)
EVENTS_DROPPED = Counter(
    "infrasight_server_events_dropped", "Events that agents report lost.", ["probe", "reason"]
)
INSERT_SECONDS = Histogram(
    "infrasight_server_insert_seconds", "How long an insert takes.", ["probe"]
)
INSERT_RETRIES = Counter(
    "infrasight_server_insert_retries", "Inserts tried again because the store was away.", ["probe"]
)
UPSERTS_REJECTED = Counter(
    "infrasight_server_upserts_rejected",
    "Accounts, rejections, containers that the store rejected.",
    ["table"],
)
CONTAINERS_RECEIVED = Counter(
    "infrasight_server_containers_received", "News of containers that arrived and were taken."
)
PENDING_BYTES = Gauge("infrasight_server_pending_bytes", "Bytes of batches not yet stored.")
STREAMS = Gauge("infrasight_server_streams", "Agents' streams that are open.")
WATCHERS = Gauge("infrasight_server_watchers", "Watch calls that are open.")


def safe_label(text: str) -> str:
    """A reason that came over the wire, fit to be a label: a stranger must not make series without end."""
    return text if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", text) else "other"
