"""A client of the CRI, which containerd, CRI-O and cri-dockerd serve: gRPC over a Unix socket.

PyPI's package of the CRI, `container-runtime-interface-api`, requires an older protobuf than the
agent. The messages are therefore defined in `infrasight/cri/v1/cri.proto`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message
from infrasight.cri.v1 import cri_pb2 as cri
from infrasight.v1.stream_pb2 import Container

from infrasight_core.containers.description import Pod, describe_container, is_image_digest
from infrasight_core.containers.runtime import TIMEOUT
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError

_CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
    # The default authority is the socket's path, which servers not written in Go reject.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_UNAVAILABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
Response = TypeVar("Response", bound=Message)


class CriClient:
    """A `Runtime` that serves the CRI.

    Raises:
        RuntimeUnavailableError: Nothing answers at the socket, or not a server of the CRI.
    """

    name = "cri"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel = grpc.insecure_channel(f"unix://{path.absolute()}", _CHANNEL_OPTIONS)
        try:
            version = self._call("Version", cri.VersionRequest(), cri.VersionResponse)
        except (RuntimeAnswerError, RuntimeUnavailableError):
            self._channel.close()
            raise
        runtime = _decode(version.runtime_name)
        self.version = f"{runtime} {_decode(version.runtime_version)} (CRI)"

    def list_containers(self) -> Iterator[Container]:
        """Yields the pods' own containers first, then all others; see `Runtime`."""
        pods = {pod.id: pod for pod in self._list_pods()}
        for pod in pods.values():
            yield self._describe_pause(pod)
        listed = self._call(
            "ListContainers", cri.ListContainersRequest(), cri.ListContainersResponse
        )
        for container in listed.containers:
            yield self._describe(container, pods.get(container.pod_sandbox_id))

    def find_container(self, container_id: str) -> Container | None:
        """Returns a pod's container, or the pod's own one; see `Runtime`.

        The filters of the CRI match a prefix of an id, too, so the ids are compared here.
        """
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(id=container_id))
        listed = self._call("ListContainers", request, cri.ListContainersResponse)
        for container in listed.containers:
            if container.id == container_id:
                pods = {pod.id: pod for pod in self._list_pods(container.pod_sandbox_id)}
                return self._describe(container, pods.get(container.pod_sandbox_id))
        for pod in self._list_pods(container_id):
            if pod.id == container_id:
                return self._describe_pause(pod)
        return None

    def follow_events(self, since: float) -> Iterator[Container | str]:
        """Yields ids only; containerd has no such events before 1.7; see `Runtime`."""
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
            self._raise("GetContainerEvents", error)
        except ValueError as error:  # the channel was closed before the call
            raise RuntimeUnavailableError(f"{self._path}: {error}") from error
        raise RuntimeUnavailableError(f"{self._path}: the stream of events ended")

    def ping(self) -> None:
        """Asks for the version, which is the cheapest query; see `Runtime`."""
        self._call("Version", cri.VersionRequest(), cri.VersionResponse)

    def close(self) -> None:
        """Closes the channel; see `Runtime`."""
        self._channel.close()

    def _list_pods(self, pod_id: str = "") -> Iterable[cri.PodSandbox]:
        pod_filter = cri.PodSandboxFilter(id=pod_id) if pod_id else None
        request = cri.ListPodSandboxRequest(filter=pod_filter)
        return self._call("ListPodSandbox", request, cri.ListPodSandboxResponse).items

    def _describe(self, container: cri.Container, sandbox: cri.PodSandbox | None) -> Container:
        name = container.metadata.name
        image = container.image.user_specified_image or container.image.image
        if is_image_digest(image):  # kubelets name images by digest; the runtime knows their names
            image = self._image_name(container) or image
        labels = _labels(container.labels)
        if sandbox is None:
            pod = _pod_by_labels(container.labels)
        else:
            labels = {**_labels(sandbox.labels), **labels}
            pod = Pod(sandbox.metadata.name, sandbox.metadata.namespace, name)
        return describe_container(container.id, self.name, name, image, labels, pod)

    def _image_name(self, container: cri.Container) -> bytes:
        request = cri.ContainerStatusRequest(container_id=container.id)
        try:
            status = self._call("ContainerStatus", request, cri.ContainerStatusResponse).status
        except RuntimeAnswerError:  # the container was removed
            return container.image_ref
        for name in (status.image.image, status.image_ref):
            if not is_image_digest(name):
                return name
        return status.image.image

    def _describe_pause(self, pod: cri.PodSandbox) -> Container:
        """Describes a pod's own container, whose image only the verbose status shows."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
        try:
            info = self._call("PodSandboxStatus", request, cri.PodSandboxStatusResponse).info
            image = json.loads(_verbose_status(info)).get("image") or ""
        except (RuntimeAnswerError, ValueError):
            image = ""
        name = pod.metadata.name
        place = Pod(name, pod.metadata.namespace, b"")
        labels = _labels(pod.labels)
        return describe_container(pod.id, self.name, name, image.encode(), labels, place)

    def _call(self, method: str, request: Message, response: type[Response]) -> Response:
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return call(request, timeout=TIMEOUT)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            self._raise(method, error)
        except ValueError as error:  # the channel is closed
            raise RuntimeUnavailableError(f"{self._path}: {error}") from error

    def _raise(self, method: str, error: grpc.RpcError) -> NoReturn:
        message = f"{self._path}: {method}: {error.code().name}: {error.details()}"
        if error.code() in _UNAVAILABLE:
            raise RuntimeUnavailableError(message) from error
        raise RuntimeAnswerError(message) from error


def _labels(entries: Iterable[cri.Label]) -> dict[str, str]:
    return {_decode(entry.key): _decode(entry.value) for entry in entries}


def _pod_by_labels(labels: Iterable[cri.Label]) -> Pod:
    """Returns the pod of a container whose sandbox is gone, by the labels that kubelets set.

    Through the CRI only the kubelet creates containers. Source: pkg/kubelet/types/labels.go of
    Kubernetes.
    """
    values = {entry.key: entry.value for entry in labels}
    return Pod(
        values.get(b"io.kubernetes.pod.name", b""),
        values.get(b"io.kubernetes.pod.namespace", b""),
        values.get(b"io.kubernetes.container.name", b""),
    )


def _verbose_status(info: Iterable[cri.Label]) -> bytes:
    return next((entry.value for entry in info if entry.key == b"info"), b"{}")


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")
