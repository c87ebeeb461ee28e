"""The server's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram

BATCHES_RECEIVED = Counter(
    "infrasight_server_batches_received", "Batches that arrived from agents.", ["probe"]
)
ROWS_RECEIVED = Counter(
    "infrasight_server_rows_received", "Rows that the arrived batches declare.", ["probe"]
)
BATCHES_STORED = Counter("infrasight_server_batches_stored", "Batches inserted.", ["probe"])
ROWS_STORED = Counter("infrasight_server_rows_stored", "Rows inserted.", ["probe"])
BATCHES_REPEATED = Counter(
    "infrasight_server_batches_repeated",
    "Batches that an agent sent again although the store had them.",
    ["probe"],
)
BATCHES_CONFLICTING = Counter(
    "infrasight_server_batches_conflicting",
    "Batches sent again with other rows than those stored: an agent that is broken or forged.",
    ["probe"],
)
BATCHES_REJECTED = Counter(
    "infrasight_server_batches_rejected",
    "Batches that the server will not store.",
    ["probe", "reason"],
)
ROWS_REJECTED = Counter(
    "infrasight_server_rows_rejected",
    "Rows that the rejected batches declare.",
    ["probe", "reason"],
)
EVENTS_DROPPED = Counter(
    "infrasight_server_events_dropped",
    "Events that agents report as dropped.",
    ["probe", "reason"],
)
COLUMNS_REJECTED = Counter(
    "infrasight_server_enricher_columns_rejected",
    "Columns of enrichers rejected because their type does not fit, one per batch.",
    ["probe", "column"],
)
INSERT_SECONDS = Histogram(
    "infrasight_server_insert_seconds", "Duration of inserts in seconds.", ["probe"]
)
INSERT_RETRIES = Counter(
    "infrasight_server_insert_retries",
    "Inserts repeated because the store was unavailable; the label holds a probe or a table.",
    ["probe"],
)
INSERT_FAILING = Gauge(
    "infrasight_server_insert_failing",
    "Whether rows of a table wait because its last insert failed; /readyz has the reason.",
    ["table"],
)
STORE_RESTARTS = Counter(
    "infrasight_server_store_restarts", "Restarts of the embedded store's process."
)
DISK_USED = Gauge(
    "infrasight_server_store_disk_used_ratio",
    "Share of the store's disk that is used, from 0 to 1.",
)
DAYS_DELETED = Counter(
    "infrasight_server_days_deleted",
    "Days whose rows the server deleted because the store's disk was too full.",
    ["table"],
)
ROWS_DELETED = Counter("infrasight_server_rows_deleted", "Rows of these days.", ["table"])
BYTES_DELETED = Counter("infrasight_server_bytes_deleted", "Bytes of these days.", ["table"])
UPSERTS_REJECTED = Counter(
    "infrasight_server_upserts_rejected",
    "Rows of accounts, rejections or containers that the store rejected.",
    ["table"],
)
RELOADS_FAILED = Counter(
    "infrasight_server_container_reload_failures",
    "Failed reloads of the dictionary of containers; queries show the containers known before.",
)
TASK_FAILURES = Counter(
    "infrasight_server_task_failures",
    "Unexpected errors in tasks that write to the store; each task goes on.",
    ["task"],
)
CONTAINERS_RECEIVED = Counter(
    "infrasight_server_containers_received", "Container updates accepted from agents."
)
PENDING_BYTES = Gauge(
    "infrasight_server_pending_bytes", "Bytes of batches that wait for their insert."
)
STREAMS = Gauge("infrasight_server_streams", "Open streams of agents.")
WATCHERS = Gauge("infrasight_server_watchers", "Open Watch calls.")
QUERIES = Counter(
    "infrasight_server_queries",
    "Queries by outcome: answered; failed, or rejected with a reason; timeout; busy, because too "
    "many waited; cancelled by the client; or unavailable, because the store was.",
    ["outcome"],
)
QUERIES_RUNNING = Gauge("infrasight_server_queries_running", "Queries that hold a slot.")
