-- One row per chmod, fchmod, fchmodat or fchmodat2 call.
-- The core adds the header's columns: `infrasight probes --ddl chmod` prints the whole table.
CREATE TABLE IF NOT EXISTS chmod_events
(
    path          String CODEC(ZSTD(1)),
    resolved_path String CODEC(ZSTD(1)),
    dirfd         Int32 CODEC(ZSTD(1)),
    fd            Int32 CODEC(ZSTD(1)),
    at_flags      UInt32 CODEC(ZSTD(1)),
    mode          UInt32 CODEC(T64, ZSTD(1)),
    mode_text     LowCardinality(String),
    old_mode      UInt32 CODEC(T64, ZSTD(1))
)
