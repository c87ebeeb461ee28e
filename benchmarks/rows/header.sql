-- Rows with the columns that all events have, and with what the probes' own columns depend on.
-- A process is numbered by its start. Its node runs it in one of its sessions, of 40 processes each:
-- the first is a child of init, and each has three children. Half of the sessions are containers.
WITH
    ['sh', 'bash', 'git', 'cc1', 'as', 'ld', 'make', 'python3', 'node', 'nginx', 'postgres', 'java',
     'redis-server', 'cron', 'sshd', 'systemd', 'containerd', 'runc', 'kubelet', 'curl', 'grep',
     'sed', 'awk', 'find', 'ls', 'cat', 'rm', 'cp', 'mv', 'tar', 'gzip', 'dpkg', 'apt-get', 'id',
     'uname', 'date', 'sleep', 'env', 'test', 'true'] AS programs,
    ['web', 'api', 'db', 'cache', 'worker', 'queue', 'auth', 'search', 'mail', 'report'] AS apps,
    [0, 0, 0, 1000, 33, 999]                                         AS uids,
    ['root', 'root', 'root', 'dev', 'www-data', 'postgres']          AS users,
    {nodes}                                                          AS nodes,
    30                                                               AS containers_of_a_node,
    (number_ -> ((session * 40 + number_) * nodes + node_number))    AS member_of_session,
    (number_ -> 300 + number_ % 4000000)                             AS pid_of,
    (number_ -> bitOr(
        bitShiftLeft(intDiv({start} + number_ * {process_step}, 1048576), 22), pid_of(number_)
    ))                                                               AS key_of,
    bitOr(bitShiftLeft(intDiv({start}, 1048576) - 1000000, 22), 1)   AS init
SELECT
    intDiv(number * {processes}, {rows})                             AS process,
    process % nodes                                                  AS node_number,
    intDiv(process, nodes)                                           AS place,
    intDiv(place, 40)                                                AS session,
    place % 40                                                       AS member,
    intDiv(member - 1, 3)                                            AS parent_member,
    sipHash64(number, '{probe}')                                     AS random,
    sipHash64(process)                                               AS trait,
    bitShiftRight(random, 20)                                        AS chance,
    session % (2 * containers_of_a_node)                             AS container_number,
    container_number < containers_of_a_node                          AS is_contained,
    is_contained AND random % 50 = 0                                 AS lacks_name,
    apps[1 + container_number % 10]                                  AS app,
    toInt64({start} + number * {step})                               AS nanoseconds,

    fromUnixTimestamp64Nano(nanoseconds, 'UTC')                      AS time,
    concat('node-', toString(node_number))                           AS node,
    pid_of(process)                                                  AS pid,
    pid                                                              AS tid,
    if(member > 0, pid_of(member_of_session(parent_member)), 1)      AS ppid,
    key_of(process)                                                  AS process_key,
    if(member > 0, key_of(member_of_session(parent_member)), init)   AS parent_process_key,
    if(member > 3, key_of(member_of_session(intDiv(parent_member - 1, 3))), init)
                                                                     AS grandparent_process_key,
    uids[1 + trait % 6]                                              AS uid,
    uid                                                              AS gid,
    users[1 + trait % 6]                                             AS user,
    user                                                             AS group_name,
    programs[1 + toUInt64(40 * pow((trait % 1000) / 1000, 2))]       AS comm,
    concat('/usr/bin/', comm)                                        AS exe,
    1000 + session % 5000                                            AS cgroup_id,
    if(is_contained, lower(hex(MD5(concat(node, app, toString(container_number))))), '')
                                                                     AS container_id,
    if(is_contained AND NOT lacks_name, app, '')                     AS container_name,
    if(is_contained, concat('example.com/', app, ':1.', toString(container_number)), '')
                                                                     AS container_image,
    if(is_contained, concat(app, '-', left(container_id, 10)), '')   AS pod_name,
    if(is_contained, ['default', 'shop', 'metrics'][1 + container_number % 3], '')
                                                                     AS pod_namespace,
    if(is_contained, app, '')                                        AS pod_container,
    map()::Map(LowCardinality(String), String)                       AS tags,
    'syscall'                                                        AS via,
    toUInt64(exp2(9 + (chance % 1000) / 100))                        AS duration_ns,
    if(lacks_name, ['container_name_missing'], [])::Array(LowCardinality(String))
                                                                     AS quality,
    process % 8                                                      AS cpu,
    concat('18b4f3a1c2d50000-', toString(intDiv(nanoseconds, 60000000000)), '-', toString(cpu), '-',
           lower(hex(process)))                                      AS batch_id,
    intDiv(number, nodes)                                            AS sequence,
    fromUnixTimestamp64Nano(nanoseconds + 150000000 + toInt64(trait % 100000000), 'UTC')
                                                                     AS received_time
FROM numbers({first}, {count})
