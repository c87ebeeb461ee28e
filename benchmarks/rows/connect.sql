-- One connection in ten is rejected by its peer.
SELECT
    *,
    chance % 10 = 0                                                  AS fails,
    'call'                                                           AS stage,
    false                                                            AS in_progress,
    random                                                           AS connection_id,
    2                                                                AS family,
    'AF_INET'                                                        AS family_name,
    1                                                                AS socket_type,
    'SOCK_STREAM'                                                    AS type_name,
    6                                                                AS protocol,
    'tcp'                                                            AS protocol_name,
    IPv4ToIPv6(toIPv4(toUInt32(167772160 + node_number)))            AS local_address,
    32768 + chance % 28000                                           AS local_port,
    IPv4ToIPv6(toIPv4(toUInt32(167772416 + trait % 3000)))           AS remote_address,
    [443, 5432, 6379, 80, 53][1 + trait % 5]                         AS remote_port,
    ''                                                               AS remote_name,
    ''                                                               AS unix_path,
    ''                                                               AS unix_client_path,
    3 + trait % 20                                                   AS fd,
    if(fails, -111, 0)                                               AS return_code,
    if(fails, 'ECONNREFUSED', '')                                    AS error
FROM ({header})
