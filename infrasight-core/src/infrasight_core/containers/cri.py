"""The CRI, which containerd, CRI-O and cri-dockerd speak: gRPC over a Unix socket.

PyPI's package of it, `container-runtime-interface-api`, wants an older protobuf than the rest of this agent, so the
messages are our own, in `infrasight/cri/v1/cri.proto`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message
from infrasight.cri.v1 import cri_pb2 as cri
from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.description import Pod, describe
from infrasight_core.containers.runtimes import TIMEOUT
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    (
        "grpc.default_authority",
        "localhost",
    ),  # else it is the path, which servers not written in Go refuse
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
Answer = TypeVar("Answer", bound=Message)


class Cri:
    """A `Runtime`; see there.

    Raises:
        RuntimeUnavailableError: Nobody answers at the socket, or somebody who does not speak the CRI.
    """

    name = "cri"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel = grpc.insecure_channel(f"unix://{path.absolute()}", _OPTIONS)
        try:
            said = self._ask("Version", cri.VersionRequest(), cri.VersionResponse)
        except (RuntimeAnswerError, RuntimeUnavailableError):
            self._channel.close()
            raise
        self.version = f"{_text(said.runtime_name)} {_text(said.runtime_version)} (CRI)"

    def all(self) -> Iterator[Container]:
        """The pods' own containers, then theirs."""
        pods = {pod.id: pod for pod in self._pods()}
        for pod in pods.values():
            yield self._pause(pod)
        for container in self._ask(
            "ListContainers", cri.ListContainersRequest(), cri.ListContainersResponse
        ).containers:
            yield self._described(container, pods.get(container.pod_sandbox_id))

    def one(self, container_id: str) -> Container | None:
        """A pod's container, or the pod's own; the filter takes the beginning of an id for the whole."""
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(id=container_id))
        listed = self._ask("ListContainers", request, cri.ListContainersResponse).containers
        for container in listed:
            if container.id == container_id:
                pods = {pod.id: pod for pod in self._pods(container.pod_sandbox_id)}
                return self._described(container, pods.get(container.pod_sandbox_id))
        return next(
            (self._pause(pod) for pod in self._pods(container_id) if pod.id == container_id), None
        )

    def follow(self, since: float) -> Iterator[Container | str]:
        """Ids of containers of which something is new; containerd has no such events before 1.7."""
        stream = self._channel.unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=cri.GetEventsRequest.SerializeToString,
            response_deserializer=cri.ContainerEventResponse.FromString,
        )
        try:
            for event in stream(cri.GetEventsRequest()):
                yield event.container_id
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return
            self._refused("GetContainerEvents", error)
        except ValueError as error:  # the channel was closed before it was asked
            raise RuntimeUnavailableError(f"{self._path}: {error}") from error
        raise RuntimeUnavailableError(f"{self._path}: its events ended")

    def ping(self) -> None:
        """The cheapest question."""
        self._ask("Version", cri.VersionRequest(), cri.VersionResponse)

    def close(self) -> None:
        """Ends the following and every question."""
        self._channel.close()

    def _pods(self, pod_id: str = "") -> Iterable[cri.PodSandbox]:
        request = cri.ListPodSandboxRequest(
            filter=cri.PodSandboxFilter(id=pod_id) if pod_id else None
        )
        return self._ask("ListPodSandbox", request, cri.ListPodSandboxResponse).items

    def _described(self, container: cri.Container, pod: cri.PodSandbox | None) -> Container:
        name, image = container.metadata.name, container.image
        named = image.user_specified_image or image.image
        if _is_digest(named):  # what a kubelet asks for; the runtime knows what people call it
            named = self._image(container) or named
        labels = {**_labels(pod.labels if pod else ()), **_labels(container.labels)}
        belongs = Pod(pod.metadata.name, pod.metadata.namespace, name) if pod else None
        return describe(container.id, self.name, name, named, labels, belongs)

    def _image(self, container: cri.Container) -> bytes:
        try:
            request = cri.ContainerStatusRequest(container_id=container.id)
            status = self._ask("ContainerStatus", request, cri.ContainerStatusResponse).status
        except RuntimeAnswerError:  # removed in the meantime
            return container.image_ref
        return next(
            (name for name in (status.image.image, status.image_ref) if not _is_digest(name)),
            status.image.image,
        )

    def _pause(self, pod: cri.PodSandbox) -> Container:
        """The container that holds a pod together; only the runtime's verbose words tell its image."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
        try:
            info = self._ask("PodSandboxStatus", request, cri.PodSandboxStatusResponse).info
            image = json.loads(_words(info)).get("image") or ""
        except (RuntimeAnswerError, ValueError):
            image = ""
        belongs = Pod(pod.metadata.name, pod.metadata.namespace, b"")
        return describe(
            pod.id, self.name, pod.metadata.name, image.encode(), _labels(pod.labels), belongs
        )

    def _ask(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=TIMEOUT)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            self._refused(method, error)
        except ValueError as error:  # the channel is closed
            raise RuntimeUnavailableError(f"{self._path}: {error}") from error

    def _refused(self, method: str, error: grpc.RpcError) -> NoReturn:
        kind = RuntimeUnavailableError if error.code() in _AWAY else RuntimeAnswerError
        raise kind(f"{self._path}: {method}: {error.code().name}: {error.details()}") from error


def _labels(entries: Iterable[cri.Label]) -> dict[str, str]:
    return {_text(entry.key): _text(entry.value) for entry in entries}


def _words(info: Iterable[cri.Label]) -> bytes:
    return next((entry.value for entry in info if entry.key == b"info"), b"{}")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _is_digest(image: bytes) -> bool:
    """Whether an image is named by what only machines read."""
    bare = image.removeprefix(b"sha256:")
    return len(bare) >= 12 and all(digit in b"0123456789abcdef" for digit in bare)
