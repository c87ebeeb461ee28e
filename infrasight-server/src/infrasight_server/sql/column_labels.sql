-- A column of every probe's table: the labels of the event's container as known now, computed when read.
ALTER TABLE {table} {verb} labels Map(String, String) ALIAS mapFromArrays(
    dictGet('{name}.containers_known', 'label_names', (toString(node), toString(container_id))),
    dictGet('{name}.containers_known', 'label_values', (toString(node), toString(container_id))))
