-- One execution in twenty fails.
SELECT
    *,
    chance % 20 = 0                                                  AS fails,
    concat('/usr/bin/', comm)                                        AS filename,
    [comm, concat('--jobs=', toString(chance % 16)), concat('input', toString(chance % 10000), '.c')]
                                                                     AS argv,
    3                                                                AS argv_length,
    concat('/srv/project/', app)                                AS cwd,
    if(member > 0, 'make', 'systemd')                                AS parent_comm,
    -100                                                             AS dirfd,
    0                                                                AS at_flags,
    if(fails, -2, 0)                                                 AS return_code,
    if(fails, 'ENOENT', '')                                          AS error
FROM ({header})
