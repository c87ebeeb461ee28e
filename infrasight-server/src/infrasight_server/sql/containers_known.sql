-- The newest containers of each node, in memory, for the columns `labels` and `container` of the
-- probes' tables. A node has at most 20,000 containers and 32 MiB here, and all nodes together
-- 200,000 containers: each node its newest, so that no node can displace another's. The server
-- reloads it after each insert of container updates; other nodes of a ClickHouse cluster look for
-- changes every few seconds.
CREATE OR REPLACE DICTIONARY containers_known
(
    node          String,
    container_id  String,
    name          String,
    image         String,
    pod_namespace String,
    pod_name      String,
    pod_container String,
    label_names   Array(String), -- not every version of ClickHouse supports maps in dictionaries
    label_values  Array(String)
)
PRIMARY KEY node, container_id
SOURCE(CLICKHOUSE(
    USER {user} PASSWORD {password} DB {database}
    QUERY '
        SELECT node, container_id, name, image, pod_namespace, pod_name, pod_container,
               label_names, label_values
        FROM
        (
            SELECT *,
                   CAST(mapKeys(labels), \'Array(String)\') AS label_names,
                   mapValues(labels) AS label_values,
                   row_number() OVER newest AS place,
                   sum(byteSize(name, image, pod_namespace, pod_name, pod_container, labels))
                       OVER newest AS bytes
            FROM `{name}`.containers FINAL
            WINDOW newest AS (PARTITION BY node ORDER BY time DESC ROWS UNBOUNDED PRECEDING)
        )
        WHERE place <= 20000 AND bytes <= 33554432
        ORDER BY place LIMIT 200000'
    INVALIDATE_QUERY 'SELECT count(), max(time) FROM `{name}`.containers'
))
LAYOUT(COMPLEX_KEY_HASHED())
LIFETIME(MIN 1 MAX 5)
