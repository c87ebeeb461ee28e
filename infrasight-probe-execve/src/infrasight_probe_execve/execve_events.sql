-- One row per execve or execveat call.
-- The core adds the header's columns: `infrasight probes --ddl execve` prints the whole table.
CREATE TABLE IF NOT EXISTS execve_events
(
    filename    String CODEC(ZSTD(1)),
    argv        Array(String) CODEC(ZSTD(1)),
    argv_length UInt32 CODEC(T64, ZSTD(1)),
    cwd         String CODEC(ZSTD(1)),
    parent_comm LowCardinality(String),
    dirfd       Int32 CODEC(ZSTD(1)),
    at_flags    UInt32 CODEC(ZSTD(1)),

    command     String ALIAS arrayStringConcat(argv, ' ')
)
