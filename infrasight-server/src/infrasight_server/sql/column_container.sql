-- A column of every probe's table: the event's container as known now, computed when read.
ALTER TABLE {table} {verb} container
    Tuple(name String, image String, pod_namespace String, pod_name String, pod_container String)
    ALIAS dictGet('{name}.containers_known', ('name', 'image', 'pod_namespace', 'pod_name', 'pod_container'),
                  (toString(node), toString(container_id)))
