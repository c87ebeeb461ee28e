-- The batches that the server rejected: one row each, however often an agent sent it.
CREATE TABLE IF NOT EXISTS rejections
(
    node     LowCardinality(String),
    probe    LowCardinality(String),
    batch_id String,
    run      LowCardinality(String),
    window   UInt32,
    time     DateTime('UTC'),
    rows     UInt64,
    reason   LowCardinality(String),
    detail   String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (node, probe, batch_id)
