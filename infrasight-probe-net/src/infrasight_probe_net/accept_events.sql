-- One row per accept or accept4 call.
-- The core adds the header's columns: `infrasight probes --ddl accept` prints the whole table.
CREATE TABLE IF NOT EXISTS accept_events
(
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
    listen_fd        Int32 CODEC(T64, ZSTD(1)),
    fd               Int32 CODEC(T64, ZSTD(1)),
    flags            UInt32 CODEC(T64, ZSTD(1)),
    flag_names       Array(LowCardinality(String))
)
