-- One row per call of mkdir or mkdirat.
CREATE TABLE IF NOT EXISTS mkdir_events
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

    path                    String CODEC(ZSTD(1)),
    dirfd                   Int32 CODEC(ZSTD(1)),
    mode                    UInt32 CODEC(ZSTD(1)),

    INDEX batch_id batch_id TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(time)
ORDER BY (node, time)
SETTINGS ttl_only_drop_parts = 1
