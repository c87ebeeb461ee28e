-- The size of the disks that the tables lie on, and how much of them is used, in bytes. What was
-- deleted and waits for the end of a query or a merge counts as free, or more would be deleted.
SELECT
    sum(toFloat64(total_space)) AS total,
    total - sum(toFloat64(free_space)) - any(waiting.bytes)
FROM system.disks,
(
    SELECT sum(bytes_on_disk) AS bytes
    FROM system.parts
    WHERE NOT active AND database = {database:String} AND endsWith(table, '_events')
        AND partition < {today:String}
) AS waiting
WHERE name IN (SELECT disk_name FROM system.parts WHERE database = {database:String})
