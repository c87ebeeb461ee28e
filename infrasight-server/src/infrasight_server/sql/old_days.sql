-- The partitions of the probes' tables that hold the rows of a day before today, the oldest first.
-- Tables with other partitions are left out.
SELECT
    table,
    partition,
    partition_id,
    min(min_block_number),
    max(max_block_number),
    sum(rows),
    sum(bytes_on_disk)
FROM system.parts
WHERE active AND database = {database:String} AND endsWith(table, '_events')
    AND match(partition, '^\\d{4}-\\d\\d-\\d\\d$') AND partition < {today:String}
GROUP BY table, partition, partition_id
HAVING sum(rows) > 0
ORDER BY partition, table
