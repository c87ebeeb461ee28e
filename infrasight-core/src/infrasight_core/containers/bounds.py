"""The bounds on container metadata, which the agent and the server both enforce."""

from infrasight.v1.stream_pb2 import Container

MAX_ID_BYTES = 256
MAX_NAME_BYTES = 4096
MAX_LABEL_BYTES = 64 << 10  # of all labels together
_MAX_SECONDS = 9_223_372_036  # the last second that nanoseconds in 64 bits reach, in the year 2262
_NAME_FIELDS = ("name", "image", "pod_name", "pod_namespace", "pod_container")


def find_violation(container: Container) -> str:
    """Returns why the store cannot hold a container's metadata, in one line; empty if it can."""
    if not container.container_id:
        return "a container has no container_id"
    subject = f"container {container.container_id[:MAX_ID_BYTES]!r}"
    if len(container.container_id.encode()) > MAX_ID_BYTES:
        return f"{subject}: its id is longer than {MAX_ID_BYTES} bytes"
    for name in _NAME_FIELDS:
        if len(getattr(container, name)) > MAX_NAME_BYTES:
            return f"{subject}: its {name} is longer than {MAX_NAME_BYTES} bytes"
    if len(container.runtime) > MAX_ID_BYTES:
        return f"{subject}: its runtime is longer than {MAX_ID_BYTES} characters"
    label_bytes = sum(len(k.encode()) + len(v.encode()) for k, v in container.labels.items())
    if label_bytes > MAX_LABEL_BYTES:
        return (
            f"{subject}: its labels are longer than {MAX_LABEL_BYTES} bytes in all; "
            "omit some of them and set labels_cut"
        )
    has_seconds = 0 < container.time.seconds < _MAX_SECONDS
    if not has_seconds or not 0 <= container.time.nanos < 10**9:
        return f"{subject}: its time is not between 1970 and 2262"
    return ""
