-- One row per call of mkdir or mkdirat.
-- The core adds the header's columns: `infrasight probes --ddl mkdir` prints the whole table.
CREATE TABLE IF NOT EXISTS mkdir_events
(
    path  String CODEC(ZSTD(1)),
    dirfd Int32 CODEC(ZSTD(1)),
    mode  UInt32 CODEC(ZSTD(1))
)
