"""What a runtime says of a container, in bounds, as the wire's message."""

import hashlib
import time
from collections.abc import Mapping

from attrs import frozen
from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.bounds import LABEL_BYTES, NAME_BYTES
from infrasight_core.errors import RuntimeAnswerError

# What kubelets put on every container, whatever the runtime. Source: pkg/kubelet/types/labels.go of Kubernetes.
_POD, _NAMESPACE, _CONTAINER = (
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.container.name",
)


@frozen
class Pod:
    """Where a container belongs.

    Attributes:
        name: The pod's.
        namespace: The pod's Kubernetes namespace.
        container: The container's name in the pod's specification; empty for the pod's own container (`pause`).
    """

    name: bytes
    namespace: bytes
    container: bytes


def describe(
    container_id: str,
    runtime: str,
    name: bytes,
    image: bytes,
    labels: Mapping[str, str],
    pod: Pod | None = None,
) -> Container:
    """One container.

    Args:
        container_id: Its id.
        runtime: `docker`, `podman` or `cri`.
        name: As the runtime has it.
        image: As the runtime names it for people.
        labels: All of them. They are kept in order of their names, up to `LABEL_BYTES`, each whole or not at all.
        pod: Where it belongs; None: what its labels say.

    Raises:
        RuntimeAnswerError: A name is longer than any runtime allows.
    """
    if pod is None:
        pod = Pod(*(to_bytes(labels.get(key, "")) for key in (_POD, _NAMESPACE, _CONTAINER)))
    for text in (name, image, pod.name, pod.namespace, pod.container):
        if len(text) > NAME_BYTES:
            raise RuntimeAnswerError(
                f"{runtime}: container {container_id[:12]}: a name of {len(text)} bytes is not believed"
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
    room = LABEL_BYTES
    for key, value in sorted(labels.items()):
        room -= len(to_bytes(key)) + len(to_bytes(value))
        if room < 0:
            container.labels_cut = True
            break
        container.labels[_valid(key)] = _valid(value)
    return container


def to_bytes(text: str) -> bytes:
    """UTF-8; JSON can hold halves of characters, which become question marks."""
    return text.encode("utf-8", "replace")


def digest(container: Container) -> bytes:
    """Stands for all that is said of a container, but not for when."""
    said = Container()
    said.CopyFrom(container)
    said.ClearField("time")
    return hashlib.blake2b(said.SerializeToString(deterministic=True), digest_size=16).digest()


def without_labels(container: Container) -> Container:
    """What the rows need of it."""
    short = Container()
    short.CopyFrom(container)
    short.ClearField("labels")
    return short


def _valid(text: str) -> str:
    return to_bytes(text).decode()
