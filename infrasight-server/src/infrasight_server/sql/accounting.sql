-- Compares, for each node, probe, run and minute, the events that the kernel saw with the rows that
-- the probes' tables hold now, and those that the server has deleted. `difference` is 0 if every
-- event is accounted for, positive if events are unaccounted for, and negative if there are rows
-- without an account.
CREATE OR REPLACE VIEW accounting AS
SELECT
    node,
    probe,
    run,
    toDateTime(window * 60, 'UTC')                AS time,
    max(a.ended)                                  AS ended,
    -- Before that, rows that the account counts may not have arrived.
    ended OR time + 90 < now()                    AS settled,
    sum(a.seen)                                   AS seen,
    sum(a.filtered)                               AS filtered,
    sum(a.block_full)                             AS block_full,
    sum(a.heap_full)                              AS heap_full,
    sum(a.submitted)                              AS submitted,
    sum(a.in_progress)                            AS in_progress,
    sum(a.waiting)                                AS waiting,
    sum(a.read)                                   AS read,
    sum(a.decode_failed)                          AS decode_failed,
    toInt64(read) - decode_failed                 AS decoded,
    sum(a.outbox_full)                            AS outbox_full,
    decoded - outbox_full                         AS sent,
    sum(a.rejected)                               AS rejected,
    sum(a.stored)                                 AS stored,
    sum(a.deleted)                                AS deleted,
    sum(a.entries_full)                           AS entries_full,
    sum(a.skipped)                                AS skipped,
    sum(a.untraced)                               AS untraced,
    max(a.accounted)                              AS accounted,
    toInt64(seen) - filtered - block_full - heap_full - in_progress - waiting - decode_failed
        - outbox_full - rejected - stored - deleted AS difference
FROM
(
    SELECT
        node, probe, run, window, ended, seen, filtered, block_full, heap_full, submitted,
        in_progress, waiting, read, decode_failed, outbox_full, entries_full, skipped, untraced,
        0 AS rejected, 0 AS stored, 0 AS deleted, true AS accounted
    FROM accounts FINAL
    UNION ALL
    SELECT
        node, probe, run, window, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, rows, 0, 0, false
    FROM rejections FINAL
    -- Another server, or this one with another set of plugins, may have stored the batch later.
    WHERE probe != '' AND (node, probe, batch_id) NOT IN
    (
        SELECT node, left(_table, length(_table) - 7), batch_id
        FROM merge({database}, '^[a-z0-9_]+_events$')
        WHERE batch_id IN (SELECT batch_id FROM rejections)
    )
    UNION ALL
    SELECT
        node,
        left(_table, length(_table) - 7) AS probe,
        substringIndex(batch_id, '-', 1) AS run,
        -- The expression of the index `window`, so that a query reads only the minutes it asks for.
        toUInt32OrZero(
            substringIndex(substringIndex(concat(batch_id, '-'), '-', 2), '-', -1)
        ) AS window,
        false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count(), 0, false
    FROM merge({database}, '^[a-z0-9_]+_events$')
    GROUP BY node, probe, run, window
    UNION ALL
    SELECT
        node, probe, run, window, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, rows, false
    FROM deletions FINAL
) AS a
-- The TTL may have deleted the account of such a minute, but not yet all its rows, or vice versa.
WHERE NOT ({expired})
GROUP BY node, probe, run, window
