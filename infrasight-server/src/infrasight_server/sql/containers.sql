-- One row per container, as its runtime described it last; stream.proto defines the columns
-- (Container). The table has no TTL, because a container can outlive its last update.
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
