"""Cgroup paths of every container runtime give the container's id."""

import pytest
from infrasight_core.containers.cgroup_paths import container_id_of

A = "4bdc61f5a3d1c1b7f1d5e8a4b4d2a7c9e0f1a2b3c4d5e6f708192a3b4c5d6e7f"
B = "f" * 64
UID = "0f5c8a4e-2b7d-4c39-9a51-6d2e8b7c1f30"
SLICE = f"kubepods-besteffort-pod{UID.replace('-', '_')}.slice"


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{A}",
        f"/system.slice/docker-{A}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
        f"/custom-parent/{A}",
        f"/kubepods/besteffort/pod{UID}/{A}",
        f"/kubepods/burstable/pod{UID}/{A}",
        f"/kubepods/pod{UID}/{A}",
        f"/kubepods/burstable/pod7d1f2a3b4c5d6e7f8091a2b3c4d5e6f7/{A}",
        f"/kubepods.slice/kubepods-besteffort.slice/{SLICE}/cri-containerd-{A}.scope",
        f"/kubepods.slice/kubepods-besteffort.slice/{SLICE}/docker-{A}.scope",
        f"/kubepods.slice/kubepods-besteffort.slice/{SLICE}/crio-{A}.scope",
        f"/kubepods/besteffort/pod{UID}/crio-{A}",
        f"/system.slice/containerd.service/{SLICE}:cri-containerd:{A}",
        f"/machine.slice/libpod-{A}.scope",
        f"/machine.slice/libpod-{A}.scope/container",
        f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope",
        f"/libpod_parent/libpod-{A}",
        f"/libpod_parent/libpod-{A}/ctr",
        f"/libpod_parent/{B}/libpod-{A}",
        f"/user.slice/user-1000.slice/user@1000.service/app.slice/run.service/libpod-payload-{A}",
        f"/default/{A}",
        f"/k8s.io/{A}",
        f"/system.slice/nerdctl-{A}.scope",
        f"/ecs/0123456789abcdef0123456789abcdef/{A}",
    ],
)
def test_path_of_a_container_gives_its_id(path: str) -> None:
    """Every form of path that a runtime creates gives the id."""
    assert container_id_of(path) == A


@pytest.mark.parametrize(
    "below",
    [
        "/init",
        "/system.slice/cron.service",
        "/a/b/c",
        "/conmon/x",
        f"/libpod_parent/{B}",
        "/init.scope",
        "/0",
    ],
)
@pytest.mark.parametrize(
    "above",
    [f"/docker/{A}", f"/machine.slice/libpod-{A}.scope/container", f"/kubepods/pod{UID}/{A}"],
)
def test_path_below_a_container_belongs_to_it(above: str, below: str) -> None:
    """A cgroup that a program in the container creates, such as systemd, is the container's."""
    assert container_id_of(above + below) == A


@pytest.mark.parametrize(
    "inner",
    [
        f"/docker/{A}",
        f"/kubelet/kubepods/besteffort/pod{UID}/{A}",
        f"/kubelet.slice/{SLICE}/cri-containerd-{A}.scope",
    ],
)
def test_path_of_nested_containers_gives_the_innermost_id(inner: str) -> None:
    """In a container that runs in a container, such as a cluster's node, the inner id counts."""
    assert container_id_of(f"/docker/{B}{inner}") == A


def test_path_of_a_monitor_gives_the_outer_container() -> None:
    """With podman in a container, its conmon belongs to the outer container."""
    assert container_id_of(f"/docker/{B}/libpod_parent/libpod-{A}/conmon") == B


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/init.scope",
        "/system.slice/docker.service",
        "/system.slice/containerd.service",
        "/user.slice/user-0.slice/session-1.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-terminal-4711.scope",
        "/machine.slice/machine-vm.scope",
        "/docker",
        "/docker/buildkit",
        "/kubepods.slice/kubepods-besteffort.slice",
        f"/kubepods.slice/kubepods-besteffort.slice/{SLICE}",
        f"/kubepods/besteffort/pod{UID}",
        f"/machine.slice/libpod-conmon-{A}.scope",
        f"/libpod_parent/libpod-{A}/conmon",
        f"/libpod_parent/libpod-{A}/supervisor",
        "/libpod_parent/conmon",
        f"/libpod_parent/{B}",
        f"/machine.slice/machine-libpod_pod_{B}.slice",
        f"/kubepods/besteffort/pod{UID}/crio-conmon-{A}",
        f"/kubepods.slice/{SLICE}/crio-conmon-{A}.scope",
        f"/docker/{A[:-1]}",
        f"/docker/{A}0",
        f"/docker/{A.upper()}",
        f"/docker/docker-{A}",
        f"/system.slice/{A}.scope",
        f"/system.slice/run-{A}.scope",
        f"/system.slice/docker-{A}.service",
        f"/system.slice/{A}",
        f"/user.slice/{A}",
        f"/{A}",
        f"/build/cache/{A}",
        "/process_api/a301d6e7e5d337832e743a6a70e2a8a2",
        f"/docker-{A}.scope.d",
        f"/x/docker-{A}.scope\n",
    ],
)
def test_path_outside_of_containers_gives_no_id(path: str) -> None:
    """Services, sessions, pods, monitors and names that only look similar give no id."""
    assert container_id_of(path) == ""
