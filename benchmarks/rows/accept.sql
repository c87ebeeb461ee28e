-- Servers that poll: one call in three finds no connection.
SELECT
    *,
    chance % 3 = 0                                                   AS fails,
    2                                                                AS family,
    'AF_INET'                                                        AS family_name,
    1                                                                AS socket_type,
    'SOCK_STREAM'                                                    AS type_name,
    6                                                                AS protocol,
    'tcp'                                                            AS protocol_name,
    IPv4ToIPv6(toIPv4(toUInt32(167772160 + node_number)))            AS local_address,
    [80, 443, 5432, 8080][1 + trait % 4]                             AS local_port,
    IPv4ToIPv6(toIPv4(toUInt32(if(fails, 0, 167772416 + random % 3000))))
                                                                     AS remote_address,
    if(fails, 0, 32768 + chance % 28000)                             AS remote_port,
    ''                                                               AS remote_name,
    ''                                                               AS unix_path,
    ''                                                               AS unix_client_path,
    3 + trait % 5                                                    AS listen_fd,
    if(fails, -1, 8 + trait % 200)                                   AS fd,
    526336                                                           AS flags,
    ['SOCK_NONBLOCK', 'SOCK_CLOEXEC']                                AS flag_names,
    if(fails, -11, fd)                                               AS return_code,
    if(fails, 'EAGAIN', '')                                          AS error
FROM ({header})
