-- The columns that the server adds to every probe's table: the event's container as it is known
-- when a query reads it, which may be more than was known when the event was recorded.
CREATE TABLE IF NOT EXISTS container_columns
(
    labels Map(String, String) ALIAS mapFromArrays(
        dictGet('{name}.containers_known', 'label_names', (toString(node), toString(container_id))),
        dictGet('{name}.containers_known', 'label_values', (toString(node), toString(container_id)))
    ),
    container Tuple(
        name String, image String, pod_namespace String, pod_name String, pod_container String
    ) ALIAS dictGet(
        '{name}.containers_known',
        ('name', 'image', 'pod_namespace', 'pod_name', 'pod_container'),
        (toString(node), toString(container_id))
    )
)
