-- All calls are by path, and succeed.
SELECT
    *,
    concat('/var/lib/', app, '/data/', toString(chance % 20000))     AS path,
    path                                                             AS resolved_path,
    -100                                                             AS dirfd,
    -1                                                               AS fd,
    0                                                                AS at_flags,
    if(trait % 2 = 0, 420, 493)                                      AS mode,
    if(trait % 2 = 0, 'rw-r--r--', 'rwxr-xr-x')                      AS mode_text,
    384                                                              AS old_mode,
    0                                                                AS return_code,
    ''                                                               AS error
FROM ({header})
