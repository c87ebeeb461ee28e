-- The containers of the opens, with their names.
INSERT INTO containers
(
    node, container_id, name, image, pod_name, pod_namespace, pod_container, labels, labels_cut,
    runtime, time
)
SELECT
    node,
    container_id,
    any(e.pod_container),
    any(e.container_image),
    any(e.pod_name),
    any(e.pod_namespace),
    any(e.pod_container),
    map('app', any(e.pod_container), 'tier', 'backend'),
    false,
    'cri',
    min(e.time)
FROM open_events AS e
WHERE container_id != ''
GROUP BY node, container_id
