"""Builds the wire's message of a container from what its runtime reports, within the bounds."""

import hashlib
import time
from collections.abc import Mapping

from attrs import frozen
from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.bounds import MAX_LABEL_BYTES, MAX_NAME_BYTES
from infrasight_core.errors import RuntimeAnswerError

_SHORTEST_DIGEST = 12  # hex digits


@frozen
class Pod:
    """A container's place in Kubernetes.

    Attributes:
        name: The pod's name.
        namespace: The pod's namespace.
        container: The container's name in the pod's specification; empty for the pod's own
            container (`pause`).
    """

    name: bytes
    namespace: bytes
    container: bytes


NO_POD = Pod(b"", b"", b"")


def describe_container(
    container_id: str,
    runtime: str,
    name: bytes,
    image: bytes,
    labels: Mapping[str, str],
    pod: Pod = NO_POD,
) -> Container:
    """Builds a container's message.

    Args:
        container_id: The container's full id.
        runtime: `docker`, `podman` or `cri`.
        name: The name that the runtime gives the container.
        image: The image's name, or its digest if it has no name.
        labels: All labels. The message has them in order of their names up to `MAX_LABEL_BYTES`;
            a label is never truncated.
        pod: The container's pod, which only the CRI knows: anyone who may start a container gives
            it any labels.

    Raises:
        RuntimeAnswerError: A name is longer than any runtime allows.
    """
    for text in (name, image, pod.name, pod.namespace, pod.container):
        if len(text) > MAX_NAME_BYTES:
            raise RuntimeAnswerError(
                f"{runtime}: container {container_id[:12]}: implausible name of {len(text)} bytes"
            )
    container = Container(
        container_id=container_id,
        name=name,
        image=image,
        pod_name=pod.name,
        pod_namespace=pod.namespace,
        pod_container=pod.container,
        runtime=runtime,
    )
    container.time.FromNanoseconds(time.time_ns())
    remaining_bytes = MAX_LABEL_BYTES
    for key, value in sorted(labels.items()):
        remaining_bytes -= len(to_bytes(key)) + len(to_bytes(value))
        if remaining_bytes < 0:
            container.labels_cut = True
            break
        container.labels[_to_valid_text(key)] = _to_valid_text(value)
    return container


def to_bytes(text: str) -> bytes:
    """Encodes a text as UTF-8; lone surrogates, which JSON can hold, become question marks."""
    return text.encode("utf-8", "replace")


def content_digest(container: Container) -> bytes:
    """Returns a digest of everything in the message except its time."""
    timeless = Container()
    timeless.CopyFrom(container)
    timeless.ClearField("time")
    return hashlib.blake2b(timeless.SerializeToString(deterministic=True), digest_size=16).digest()


def without_labels(container: Container) -> Container:
    """Returns a copy with the fields that rows need."""
    copy = Container()
    copy.CopyFrom(container)
    copy.ClearField("labels")
    return copy


def is_image_digest(image: bytes) -> bool:
    """Returns whether an image is named by its digest, which does not tell people what it is."""
    digits = image.removeprefix(b"sha256:")
    return len(digits) >= _SHORTEST_DIGEST and all(d in b"0123456789abcdef" for d in digits)


def _to_valid_text(text: str) -> str:
    return to_bytes(text).decode()
