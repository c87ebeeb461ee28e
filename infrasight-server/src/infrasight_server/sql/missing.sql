-- Counts rows by node, probe, minute and the columns that they lack: `missing` has the columns that
-- the rows flag in `quality` as `<column>_missing`, and is empty for complete rows. A column of the
-- row's container does not count if the container has become known, because `container` shows it.
CREATE OR REPLACE VIEW missing AS
SELECT
    node,
    left(_table, length(_table) - 7) AS probe,
    toStartOfMinute(time)            AS time,
    arrayMap(
        flag -> left(flag, length(flag) - 8),
        arrayFilter(
            flag -> endsWith(flag, '_missing') AND NOT (
                known AND flag IN (
                    'container_name_missing', 'container_image_missing', 'pod_namespace_missing',
                    'pod_name_missing', 'pod_container_missing'
                )
            ),
            quality
        )
    )                                AS missing,
    count()                          AS rows
FROM
(
    SELECT
        node,
        _table,
        time,
        quality,
        container_id != '' AND dictHas('{name}.containers_known', (node, container_id)) AS known
    FROM merge({database}, '^[a-z0-9_]+_events$')
)
GROUP BY node, probe, time, missing
