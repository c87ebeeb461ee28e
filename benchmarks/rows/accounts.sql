-- The accounts of a probe's rows: no event was filtered or dropped.
INSERT INTO accounts (node, probe, run, window, time, number, ended, seen, submitted, read)
SELECT
    node,
    '{probe}',
    splitByChar('-', batch_id)[1]                                    AS run,
    toUInt32(splitByChar('-', batch_id)[2])                          AS window,
    toDateTime(window * 60, 'UTC'),
    1,
    false,
    count()                                                          AS rows,
    rows,
    rows
FROM {probe}_events
GROUP BY node, run, window
