-- What the containers' runtimes say, a row per container, kept by the newest news; stream.proto, Container, says what the
-- columns mean. It has no TTL: a container may live longer than its news. It may be run again.
CREATE TABLE IF NOT EXISTS containers
(
    node          LowCardinality(String),
    container_id  String,
    name          String,
    image         LowCardinality(String),
    pod_name      String,
    pod_namespace LowCardinality(String),
    pod_container LowCardinality(String),
    labels        Map(LowCardinality(String), String),
    labels_cut    Bool,
    runtime       LowCardinality(String),
    time          DateTime64(9, 'UTC')
)
ENGINE = ReplacingMergeTree(time)
ORDER BY (node, container_id)
