-- The table of execve and execveat calls, one row per call: the header's columns, then the probe's own, in the order of
-- ExecveEvent. It may be run again. The names have no database: the table goes where the session stands.
CREATE TABLE IF NOT EXISTS execve_events
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

    filename                String CODEC(ZSTD(1)),
    argv                    Array(String) CODEC(ZSTD(1)),
    argv_length             UInt32 CODEC(T64, ZSTD(1)),
    cwd                     String CODEC(ZSTD(1)),
    parent_comm             LowCardinality(String),
    dirfd                   Int32 CODEC(ZSTD(1)),
    at_flags                UInt32 CODEC(ZSTD(1)),

    -- For people; computed when read.
    duration                String ALIAS multiIf(duration_ns < 1000, concat(toString(duration_ns), ' ns'),
                                                 duration_ns < 1000000, concat(toString(round(duration_ns / 1e3, 2)), ' µs'),
                                                 duration_ns < 1000000000, concat(toString(round(duration_ns / 1e6, 2)), ' ms'),
                                                 concat(toString(round(duration_ns / 1e9, 2)), ' s')),
    command                 String ALIAS arrayStringConcat(argv, ' '),

    -- A batch that comes again is looked up by its id.
    INDEX batch_id batch_id TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(time)
ORDER BY (node, time)
SETTINGS ttl_only_drop_parts = 1
