"""A containerd of the test's own, asked by the CRI as a kubelet does: pods and containers of a busybox image."""

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
_EXITED = 2  # ContainerState
_HOST = 2  # NamespaceMode NODE
Answer = TypeVar("Answer", bound=Message)


class Containerd:
    """A containerd with folders of its own.

    Args:
        folder: For all its state.
        shared: Whether it has mounts of its own that are shared, as a node's are, so that containers may follow the host's.

    Attributes:
        socket: Where it listens.
        service: Its process; containers outlive it.
        cgroup: The control group that its pods are in, below the root of each hierarchy.
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
        """Starts it, and waits until it answers by the CRI."""
        self.service.start(self._answers)

    def load_images(self) -> None:
        """Gives it the images."""
        for name, seconds in (
            (IMAGE, "1000000"),
            (PAUSE, "1000001"),
        ):  # images that differ in nothing are one
            save_image(archive := self._folder / "image.tar", name, "sleep", seconds)
            self.load_image(archive)

    def load_image(self, archive: Path) -> None:
        """Gives it an image of an archive as `docker save` writes it."""
        command = [
            "ctr",
            "--address",
            str(self.socket),
            "--namespace",
            "k8s.io",
            "images",
            "import",
        ]
        subprocess.run(
            [*command, "--snapshotter", _SNAPSHOTTER, str(archive)], check=True, capture_output=True
        )

    def run_pod(
        self, name: str, namespace: str = "default", labels: Mapping[str, str] | None = None
    ) -> str:
        """Runs a pod with nothing in it but its own container; the id of both."""
        uid = str(uuid.uuid4())
        told = {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": uid,
        }
        config = pods.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(
                name=_bytes(name), uid=uid.encode(), namespace=namespace.encode()
            ),
            log_directory=str(self._folder / "logs"),
            labels=_labels({**told, **(labels or {})}),
            linux=pods.LinuxPodSandboxConfig(cgroup_parent=f"/{self.cgroup}/besteffort/pod{uid}"),
        )
        config.linux.security_context.namespace_options.network = _HOST
        answer = self.call(
            "RunPodSandbox", pods.RunPodSandboxRequest(config=config), pods.RunPodSandboxResponse
        )
        self._pods[answer.pod_sandbox_id] = config
        return answer.pod_sandbox_id

    def run(
        self,
        pod: str,
        name: str,
        *command: str,
        image: str = IMAGE,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Runs a container in a pod, as long as its command takes; its id."""
        config = pods.ContainerConfig(command=command or ("sleep", "1000"))
        config.linux.security_context.namespace_options.network = _HOST
        return self.run_config(pod, name, config, image, labels)

    def run_config(
        self,
        pod: str,
        name: str,
        config: pods.ContainerConfig,
        image: str,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Runs a container of which all but names and labels is given; its id."""
        sandbox = self._pods[pod]
        told = {"io.kubernetes.container.name": name}
        told |= {"io.kubernetes.pod.name": sandbox.metadata.name.decode("utf-8", "replace")}
        told |= {"io.kubernetes.pod.namespace": sandbox.metadata.namespace.decode()}
        config.metadata.name = _bytes(name)
        config.image.image = image.encode()
        config.labels.extend(_labels({**told, **(labels or {})}))
        config.log_path = config.log_path or "log"
        request = pods.CreateContainerRequest(
            pod_sandbox_id=pod, config=config, sandbox_config=sandbox
        )
        container_id = self.call(
            "CreateContainer", request, pods.CreateContainerResponse
        ).container_id
        self.call(
            "StartContainer", pods.StartContainerRequest(container_id=container_id), pods.Done
        )
        return container_id

    def stop(self, container_id: str, seconds: int) -> int:
        """Ends a container, with SIGKILL only if it takes longer; its exit code."""
        self.call(
            "StopContainer",
            pods.StopContainerRequest(container_id=container_id, timeout=seconds),
            pods.Done,
        )
        asked = cri.ContainerStatusRequest(container_id=container_id)
        ended = self.call("ContainerStatus", asked, pods.ContainerExitResponse).status
        assert ended.state == _EXITED, ended
        return ended.exit_code

    def image_id(self) -> str:
        """The image's id, by which a kubelet asks for it."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images", "ls"]
        lines = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        digest = {line.split()[0]: line.split()[2] for line in lines[1:]}
        return next(
            name for name in digest if name.startswith("sha256:") and digest[name] == digest[IMAGE]
        )

    def call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Calls the CRI."""
        done = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return done(request, timeout=100, wait_for_ready=True)  # type: ignore[no-any-return]

    def clean(self) -> None:
        """Ends and removes every pod with what is in it."""
        for pod in self.call(
            "ListPodSandbox", cri.ListPodSandboxRequest(), cri.ListPodSandboxResponse
        ).items:
            self.call(
                "StopPodSandbox", pods.StopPodSandboxRequest(pod_sandbox_id=pod.id), pods.Done
            )
            self.call(
                "RemovePodSandbox", pods.RemovePodSandboxRequest(pod_sandbox_id=pod.id), pods.Done
            )

    def close(self) -> None:
        """Hangs up."""
        self._channel.close()

    def _answers(self) -> bool:
        try:
            self.call("Version", cri.VersionRequest(), cri.VersionResponse)
        except grpc.RpcError:
            return False
        return True


def _labels(labels: Mapping[str, str]) -> list[cri.Label]:
    return [cri.Label(key=_bytes(key), value=_bytes(value)) for key, value in labels.items()]


def _bytes(text: str) -> bytes:
    """Any byte: what is not UTF-8 as the file system's names have it in Python."""
    return text.encode("utf-8", "surrogateescape")


@contextmanager
def running_containerd(shared: bool = False) -> Iterator[Containerd]:
    """A containerd that answers and has the images; nothing of it is left."""
    with short_folder() as folder:
        containerd = Containerd(folder, shared)
        try:
            containerd.start()
            containerd.load_images()
            try:
                yield containerd
            finally:
                containerd.service.stop()
                containerd.start()  # whatever the test did to it, this one can clean
                containerd.clean()
        finally:
            containerd.close()
            containerd.service.stop()
            remove_cgroups(containerd.cgroup)
