-- Takes back the count of a partition that was not deleted after all; see deletions.sql.
INSERT INTO deletions (node, probe, run, window, time, day, first_block, rows)
SELECT node, probe, run, window, time, day, first_block, 0
FROM deletions
WHERE probe = {probe} AND day = {day} AND first_block = {first_block}
