-- Which server inserts the batches of a node into a probe's table: the one whose claim came last.
-- Each insert checks that no claim has changed since; so what a server has sent too late, because
-- the node's agent has moved to another server, inserts nothing. `id` is random.
CREATE TABLE IF NOT EXISTS claims
(
    probe  LowCardinality(String),
    node   String,
    server LowCardinality(String),
    id     UInt64,
    time   DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree
ORDER BY (probe, node)
TTL toDateTime(time) + INTERVAL 90 DAY
