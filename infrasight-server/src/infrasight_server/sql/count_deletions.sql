-- Counts the rows of a partition that is about to be deleted, by window; see deletions.sql.
INSERT INTO deletions (node, probe, run, window, time, day, first_block, rows)
SELECT
    node,
    {probe},
    substringIndex(batch_id, '-', 1) AS run,
    toUInt32OrZero(
        substringIndex(substringIndex(concat(batch_id, '-'), '-', 2), '-', -1)
    ) AS window,
    toDateTime(window * 60, 'UTC'),
    toDate({day}),
    {first_block},
    count()
FROM {table}
WHERE _partition_id = {partition_id}
GROUP BY node, run, window
