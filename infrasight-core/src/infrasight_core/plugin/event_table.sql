-- The part that the tables of all probes share: the columns of infrasight.v1.EventHeader, the
-- columns computed from them, and indexes; then the engine, partition, order and settings of a
-- probe that chooses none. `ddl.py` inserts a probe's own columns.
CREATE TABLE IF NOT EXISTS event_table
(
    time                    DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    node                    LowCardinality(String),
    pid                     UInt32 CODEC(T64, ZSTD(1)),
    tid                     UInt32 CODEC(T64, ZSTD(1)),
    ppid                    UInt32 CODEC(T64, ZSTD(1)),
    process_key             UInt64 CODEC(Delta, ZSTD(1)),
    parent_process_key      UInt64 CODEC(ZSTD(1)),
    grandparent_process_key UInt64 CODEC(ZSTD(1)),
    uid                     UInt32 CODEC(ZSTD(1)),
    gid                     UInt32 CODEC(ZSTD(1)),
    user                    LowCardinality(String),
    group_name              LowCardinality(String),
    comm                    LowCardinality(String),
    exe                     String CODEC(ZSTD(1)),
    cgroup_id               UInt64 CODEC(ZSTD(1)),
    container_id            LowCardinality(String),
    container_name          LowCardinality(String),
    container_image         LowCardinality(String),
    pod_name                LowCardinality(String),
    pod_namespace           LowCardinality(String),
    pod_container           LowCardinality(String),
    tags                    Map(LowCardinality(String), String),
    return_code             Int32 CODEC(ZSTD(1)),
    error                   LowCardinality(String),
    via                     LowCardinality(String),
    duration_ns             UInt64 CODEC(T64, ZSTD(1)),
    quality                 Array(LowCardinality(String)),
    batch_id                LowCardinality(String),
    cpu                     UInt32 CODEC(ZSTD(1)),
    sequence                UInt64 CODEC(DoubleDelta, ZSTD(1)),
    received_time           DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),

    -- For people; computed when a query reads it.
    duration                String ALIAS multiIf(
        duration_ns < 1000, concat(toString(duration_ns), ' ns'),
        duration_ns < 1000000, concat(toString(round(duration_ns / 1e3, 2)), ' µs'),
        duration_ns < 1000000000, concat(toString(round(duration_ns / 1e6, 2)), ' ms'),
        concat(toString(round(duration_ns / 1e9, 2)), ' s')
    ),

    -- The server looks up a batch that an agent sends again by its id.
    INDEX batch_id batch_id TYPE bloom_filter GRANULARITY 4,
    -- The view `accounting` counts the rows of a window, which is in the batch's id.
    INDEX window toUInt32OrZero(
        substringIndex(substringIndex(concat(batch_id, '-'), '-', 2), '-', -1)
    ) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(time)
ORDER BY (node, time)
SETTINGS ttl_only_drop_parts = 1
