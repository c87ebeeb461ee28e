"""What may be told of a container: the bounds that agent and server hold it to."""

from infrasight.v1.stream_pb2 import Container

ID_BYTES, NAME_BYTES, LABEL_BYTES = 256, 4096, 64 << 10
_LAST_SECOND = 9_223_372_036  # what nanoseconds in 64 bits reach: the year 2262


def fault(container: Container) -> str:
    """What is wrong with it, in one line; empty where it can be stored."""
    if not container.container_id:
        return "a container has no container_id"
    who = f"container {container.container_id[:ID_BYTES]!r}"
    if len(container.container_id.encode()) > ID_BYTES:
        return f"{who}: its id is longer than {ID_BYTES} bytes"
    for name in ("name", "image", "pod_name", "pod_namespace", "pod_container"):
        if len(getattr(container, name)) > NAME_BYTES:
            return f"{who}: its {name} is longer than {NAME_BYTES} bytes"
    if len(container.runtime) > ID_BYTES:
        return f"{who}: its runtime is longer than {ID_BYTES} letters"
    if (
        sum(len(name.encode()) + len(value.encode()) for name, value in container.labels.items())
        > LABEL_BYTES
    ):
        return f"{who}: its labels are longer than {LABEL_BYTES} bytes in all; leave some out and set labels_cut"
    if not (0 < container.time.seconds < _LAST_SECOND and 0 <= container.time.nanos < 10**9):
        return f"{who}: its time is not one between 1970 and 2262"
    return ""
