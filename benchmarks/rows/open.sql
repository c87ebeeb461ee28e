-- One open in four fails, one in twelve writes; one in a hundred thousand is of /etc/shadow.
SELECT
    *,
    chance % 4 = 0                                                   AS fails,
    bitShiftRight(random, 8) % 12 = 0                                AS writes,
    multiIf(
        random % 100000 = 0, '/etc/shadow',
        random % 100 < 10, concat('/etc/', comm, '.d/', toString(random % 300), '.conf'),
        random % 100 < 50, concat('/usr/lib/x86_64-linux-gnu/lib', toString(chance % 800), '.so.6'),
        random % 100 < 65, concat('/proc/', toString(pid), '/stat'),
        random % 100 < 80, concat('/var/lib/', app, '/cache/', lower(hex(chance % 100000))),
        concat('/srv/project/src/module', toString(chance % 5000), '.h')
    )                                                                AS path,
    if(fails, '', path)                                              AS resolved_path,
    false                                                            AS deleted,
    -100                                                             AS dirfd,
    if(writes, 524865, 524288)                                       AS flags,
    if(writes, ['O_WRONLY', 'O_CREAT', 'O_TRUNC', 'O_CLOEXEC'], ['O_RDONLY', 'O_CLOEXEC'])
                                                                     AS flag_names,
    if(writes, 420, 0)                                               AS mode,
    0                                                                AS resolve,
    if(fails, -1, 3 + trait % 20)                                    AS fd,
    if(fails, -2, fd)                                                AS return_code,
    if(fails, 'ENOENT', '')                                          AS error
FROM ({header})
