-- One row per open, openat, openat2 or creat call.
-- The core adds the header's columns: `infrasight probes --ddl open` prints the whole table.
CREATE TABLE IF NOT EXISTS open_events
(
    path          String CODEC(ZSTD(1)),
    resolved_path String CODEC(ZSTD(1)),
    deleted       Bool CODEC(ZSTD(1)),
    dirfd         Int32 CODEC(ZSTD(1)),
    flags         UInt64 CODEC(T64, ZSTD(1)),
    flag_names    Array(LowCardinality(String)),
    mode          UInt64 CODEC(T64, ZSTD(1)),
    resolve       UInt64 CODEC(T64, ZSTD(1)),
    fd            Int32 CODEC(T64, ZSTD(1))
)
