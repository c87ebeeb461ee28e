-- Batches that the server rejected for good, one row each however often they came. It may be run again.
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
