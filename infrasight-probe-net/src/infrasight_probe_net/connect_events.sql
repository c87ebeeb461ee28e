-- One row per connect call, and one more when a connection attempt that did not block ends.
-- The core adds the header's columns: `infrasight probes --ddl connect` prints the whole table.
CREATE TABLE IF NOT EXISTS connect_events
(
    stage            LowCardinality(String),
    in_progress      Bool CODEC(ZSTD(1)),
    connection_id    UInt64 CODEC(ZSTD(1)),
    family           UInt32 CODEC(T64, ZSTD(1)),
    family_name      LowCardinality(String),
    socket_type      UInt32 CODEC(T64, ZSTD(1)),
    type_name        LowCardinality(String),
    protocol         UInt32 CODEC(T64, ZSTD(1)),
    protocol_name    LowCardinality(String),
    local_address    IPv6 CODEC(ZSTD(1)),
    local_port       UInt32 CODEC(T64, ZSTD(1)),
    remote_address   IPv6 CODEC(ZSTD(1)),
    remote_port      UInt32 CODEC(T64, ZSTD(1)),
    remote_name      LowCardinality(String),
    unix_path        String CODEC(ZSTD(1)),
    unix_client_path String CODEC(ZSTD(1)),
    fd               Int32 CODEC(T64, ZSTD(1))
)
