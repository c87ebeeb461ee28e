-- One row per openat call.
-- The core adds the header's columns: `infrasight probes --ddl sample` prints the whole table.
CREATE TABLE IF NOT EXISTS sample_events
(
    path  String CODEC(ZSTD(1)),
    flags UInt32 CODEC(ZSTD(1))
)
