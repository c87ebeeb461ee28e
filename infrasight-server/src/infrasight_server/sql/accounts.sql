-- The account of each window of a probe's run: how many events were seen, filtered, dropped and
-- sent; stream.proto defines the columns (Account). An agent sends an account again as its window
-- grows; the row with the greatest `number` wins.
CREATE TABLE IF NOT EXISTS accounts
(
    node          LowCardinality(String),
    probe         LowCardinality(String),
    run           LowCardinality(String),
    window        UInt32,
    time          DateTime('UTC') CODEC(Delta, ZSTD(1)),
    number        UInt64 CODEC(T64, ZSTD(1)),
    ended         Bool,
    seen          UInt64 CODEC(T64, ZSTD(1)),
    filtered      UInt64 CODEC(T64, ZSTD(1)),
    block_full    UInt64 CODEC(T64, ZSTD(1)),
    heap_full     UInt64 CODEC(T64, ZSTD(1)),
    submitted     UInt64 CODEC(T64, ZSTD(1)),
    read          UInt64 CODEC(T64, ZSTD(1)),
    waiting       Int64 CODEC(T64, ZSTD(1)),
    in_progress   Int64 CODEC(T64, ZSTD(1)),
    decode_failed UInt64 CODEC(T64, ZSTD(1)),
    outbox_full   UInt64 CODEC(T64, ZSTD(1)),
    entries_full  UInt64 CODEC(T64, ZSTD(1)),
    skipped       UInt64 CODEC(T64, ZSTD(1)),
    untraced      UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree(number)
PARTITION BY toYYYYMM(time)
ORDER BY (node, probe, run, window)
