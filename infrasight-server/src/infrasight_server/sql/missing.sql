-- How many rows of each probe lack which columns, by node and minute: `missing` are the names that the rows' `quality` gives
-- as `<column>_missing`, none for rows that lack nothing. What a row lacks of its container counts no longer when the
-- container is known by now: the column `container` has it.
CREATE OR REPLACE VIEW missing AS
SELECT
    node,
    left(_table, length(_table) - 7) AS probe,
    toStartOfMinute(time)            AS time,
    arrayMap(flag -> left(flag, length(flag) - 8), arrayFilter(
        flag -> endsWith(flag, '_missing') AND NOT (
            known AND flag IN ('container_name_missing', 'container_image_missing', 'pod_namespace_missing',
                               'pod_name_missing', 'pod_container_missing')), quality)) AS missing,
    count()                          AS rows
FROM
(
    SELECT node, _table, time, quality, container_id != '' AND dictHas('{name}.containers_known', (node, container_id)) AS known
    FROM merge({database}, '^[a-z0-9_]+_events$')
)
GROUP BY node, probe, time, missing
