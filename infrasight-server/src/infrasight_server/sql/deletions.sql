-- How many rows of each window the server deleted because the store's disk was too full. `day` and
-- `first_block` name the partition that was deleted: rows of a day that arrive after its deletion
-- make another one. A server that counts a partition again replaces its numbers.
CREATE TABLE IF NOT EXISTS deletions
(
    node        LowCardinality(String),
    probe       LowCardinality(String),
    run         LowCardinality(String),
    window      UInt32,
    time        DateTime('UTC') CODEC(Delta, ZSTD(1)),
    day         Date,
    first_block Int64 CODEC(T64, ZSTD(1)),
    rows        UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (node, probe, run, window, day, first_block)
