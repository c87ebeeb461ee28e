"""A separate containerd for a test, driven through the CRI like a kubelet does."""

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from infrasight.cri.v1 import cri_pb2 as cri

from infrasight_testbed.container_image import save_image
from infrasight_testbed.container_service import Service, remove_cgroups, short_folder
from infrasight_testbed.v1 import pods_pb2 as pods

IMAGE = "localhost/infrasight-busy:1"
PAUSE = "localhost/infrasight-pause:1"
_SETTINGS = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{folder}/cni"
conf_dir = "{folder}/cni"
"""
_SNAPSHOTTER = "overlayfs"
_CONTAINER_EXITED = 2  # of the CRI's enum ContainerState
_NAMESPACE_NODE = 2  # of the CRI's enum NamespaceMode
Response = TypeVar("Response", bound=Message)


class Containerd:
    """A containerd with separate storage.

    Args:
        folder: The folder for all state.
        shared: Whether it runs in a mount namespace with shared mounts, as on a node, so that
            containers can follow the host's mounts.

    Attributes:
        socket: The socket that it listens on.
        service: The containerd process; containers outlive it.
        cgroup: The cgroup of the pods, below the root of each hierarchy.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        self._folder = folder
        self.socket = folder / "containerd/containerd.sock"
        self.cgroup = f"infrasight-{uuid.uuid4().hex[:12]}"
        self.socket.parent.mkdir()
        settings = folder / "config.toml"
        settings.write_text(_SETTINGS.format(folder=folder, pause=PAUSE, snapshotter=_SNAPSHOTTER))
        command = ["containerd", "--config", str(settings)]
        if shared:
            command = ["unshare", "--mount", "--propagation", "shared", *command]
        self.service = Service(command, self.socket, folder / "containerd.log", dict(os.environ))
        self._channel = grpc.insecure_channel(
            f"unix://{self.socket}", [("grpc.enable_http_proxy", 0)]
        )
        self._pods: dict[str, pods.PodSandboxConfig] = {}

    def start(self) -> None:
        """Starts containerd and waits until its CRI answers."""
        self.service.start(self._is_ready)

    def load_images(self) -> None:
        """Loads the busybox and the pause image."""
        archive = self._folder / "image.tar"
        # The commands differ, because containerd merges identical images.
        for name, seconds in ((IMAGE, "1000000"), (PAUSE, "1000001")):
            save_image(archive, name, "sleep", seconds)
            self.load_image(archive)

    def load_image(self, archive: Path) -> None:
        """Loads an image from an archive in the format of `docker save`."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images"]
        command += ["import", "--snapshotter", _SNAPSHOTTER, str(archive)]
        subprocess.run(command, check=True, capture_output=True)

    def run_pod(
        self, name: str, namespace: str = "default", labels: Mapping[str, str] | None = None
    ) -> str:
        """Runs a pod with only its sandbox container; returns the id of both."""
        uid = str(uuid.uuid4())
        identity = {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": uid,
        }
        config = pods.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(
                name=_bytes(name), uid=uid.encode(), namespace=namespace.encode()
            ),
            log_directory=str(self._folder / "logs"),
            labels=_labels({**identity, **(labels or {})}),
            linux=pods.LinuxPodSandboxConfig(cgroup_parent=f"/{self.cgroup}/besteffort/pod{uid}"),
        )
        config.linux.security_context.namespace_options.network = _NAMESPACE_NODE
        request = pods.RunPodSandboxRequest(config=config)
        response = self.call("RunPodSandbox", request, pods.RunPodSandboxResponse)
        self._pods[response.pod_sandbox_id] = config
        return response.pod_sandbox_id

    def run(
        self,
        pod: str,
        name: str,
        *command: str,
        image: str = IMAGE,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Runs a container in a pod until its command ends; returns its id."""
        config = pods.ContainerConfig(command=command or ("sleep", "1000"))
        config.linux.security_context.namespace_options.network = _NAMESPACE_NODE
        return self.run_config(pod, name, config, image, labels)

    def run_config(
        self,
        pod: str,
        name: str,
        config: pods.ContainerConfig,
        image: str,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Runs a container with a complete config, except for names and labels; returns its id."""
        sandbox = self._pods[pod]
        identity = {
            "io.kubernetes.container.name": name,
            "io.kubernetes.pod.name": sandbox.metadata.name.decode("utf-8", "replace"),
            "io.kubernetes.pod.namespace": sandbox.metadata.namespace.decode(),
        }
        config.metadata.name = _bytes(name)
        config.image.image = image.encode()
        config.labels.extend(_labels({**identity, **(labels or {})}))
        config.log_path = config.log_path or "log"
        request = pods.CreateContainerRequest(
            pod_sandbox_id=pod, config=config, sandbox_config=sandbox
        )
        response = self.call("CreateContainer", request, pods.CreateContainerResponse)
        start = pods.StartContainerRequest(container_id=response.container_id)
        self.call("StartContainer", start, pods.Done)
        return response.container_id

    def stop(self, container_id: str, seconds: int) -> int:
        """Stops a container, with SIGKILL after the given time; returns its exit code."""
        stop = pods.StopContainerRequest(container_id=container_id, timeout=seconds)
        self.call("StopContainer", stop, pods.Done)
        request = cri.ContainerStatusRequest(container_id=container_id)
        status = self.call("ContainerStatus", request, pods.ContainerExitResponse).status
        assert status.state == _CONTAINER_EXITED, status
        return status.exit_code

    def image_id(self) -> str:
        """The id of the busybox image, which kubelets use in place of its name."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images", "ls"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        digests = {}
        for line in done.stdout.splitlines()[1:]:
            name, _, digest, *_ = line.split()
            digests[name] = digest
        return next(
            name
            for name, digest in digests.items()
            if name.startswith("sha256:") and digest == digests[IMAGE]
        )

    def call(self, method: str, request: Message, response: type[Response]) -> Response:
        """Calls a method of the CRI."""
        stub = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return stub(request, timeout=100, wait_for_ready=True)  # type: ignore[no-any-return]

    def clean(self) -> None:
        """Stops and removes all pods with their containers."""
        request = cri.ListPodSandboxRequest()
        for pod in self.call("ListPodSandbox", request, cri.ListPodSandboxResponse).items:
            stop = pods.StopPodSandboxRequest(pod_sandbox_id=pod.id)
            self.call("StopPodSandbox", stop, pods.Done)
            remove = pods.RemovePodSandboxRequest(pod_sandbox_id=pod.id)
            self.call("RemovePodSandbox", remove, pods.Done)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _is_ready(self) -> bool:
        try:
            self.call("Version", cri.VersionRequest(), cri.VersionResponse)
        except grpc.RpcError:
            return False
        return True


def _labels(labels: Mapping[str, str]) -> list[cri.Label]:
    return [cri.Label(key=_bytes(key), value=_bytes(value)) for key, value in labels.items()]


def _bytes(text: str) -> bytes:
    """Encodes text; surrogates stand for bytes that are not UTF-8, as in Python's file names."""
    return text.encode("utf-8", "surrogateescape")


@contextmanager
def running_containerd(shared: bool = False) -> Iterator[Containerd]:
    """A running containerd with the images; all its pods and files are removed at the end."""
    with short_folder() as folder:
        containerd = Containerd(folder, shared)
        try:
            containerd.start()
            containerd.load_images()
            try:
                yield containerd
            finally:
                containerd.service.stop()
                containerd.start()  # a fresh process can clean up, whatever the test did to it
                containerd.clean()
        finally:
            containerd.close()
            containerd.service.stop()
            remove_cgroups(containerd.cgroup)
