-- The newest 200,000 containers, in memory, for the columns `labels` and `container` of the probes'
-- tables. The server reloads it after each insert of container updates; other nodes of a ClickHouse
-- cluster look for changes every few seconds.
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
               CAST(mapKeys(labels), \'Array(String)\') AS label_names, mapValues(labels) AS label_values
        FROM `{name}`.containers FINAL ORDER BY time DESC LIMIT 200000'
    INVALIDATE_QUERY 'SELECT count(), max(time) FROM `{name}`.containers'
))
LAYOUT(COMPLEX_KEY_HASHED())
LIFETIME(MIN 1 MAX 5)
