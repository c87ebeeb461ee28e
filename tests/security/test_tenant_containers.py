"""What a tenant tries so that its events carry the name of another tenant's container."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import infrasight_probe_execve.plugin as execve
import pytest
from infrasight_core.containers.runtimes import connect
from infrasight_core.kernel.cgroups import V1
from infrasight_recording import CONTAINERS, Recording, recording
from infrasight_testbed.cgroups import mount_of, temporary_cgroup
from infrasight_testbed.fake_docker import fake_docker
from infrasight_testbed.system import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
TENANT = 65534
VICTIM = f"{os.getpid():032x}" + "5ec0" * 8
OWN = f"{os.getpid():032x}" + "0a11" * 8
UNKNOWN = ("", True)
# Enters cgroups as root, becomes the tenant, creates the cgroup of the second argument below the
# first of them, enters it, and executes /bin/true with the marker. Prefixed with "=", the last
# cgroup gets its name by a rename.
ATTACK = """
import os, sys
marker, name, *entered = sys.argv[1:]
for folder in reversed(entered):
    open(f"{folder}/cgroup.procs", "w").write("0")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
path = entered[0]
for part in filter(None, name.lstrip("=").split("/")):
    if not os.path.isdir(f"{path}/{part}"):
        os.mkdir(f"{path}/plain" if name[0] == "=" else f"{path}/{part}")
    if name[0] == "=":
        os.rename(f"{path}/plain", f"{path}/{part}")
    path += "/" + part
open(f"{path}/cgroup.procs", "w").write("0")
os.execv("/bin/true", ["/bin/true", marker])
"""


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recording]:
    """A recording of executions with their containers."""
    with recording("execve", execve, enrichers=CONTAINERS) as running:
        yield running


def attack(name: str, *entered: Path) -> str:
    """Executes a program in a new cgroup of the tenant's below the first of these cgroups.

    Returns:
        The program's argument.
    """
    marker = f"tenant-{time.monotonic_ns()}"
    command = [sys.executable, "-S", "-E", "-c", ATTACK, marker, name, *map(str, entered)]
    subprocess.run(command, check=True)
    return marker


@contextmanager
def delegated(id_flag: int, path: str) -> Iterator[Path]:
    """Makes a cgroup that belongs to the tenant, as systemd does for a user's session."""
    with temporary_cgroup(id_flag, f"/infrasight-tenant-{os.getpid()}{path}") as folder:
        for entry in (folder, *folder.glob("cgroup.*"), *folder.glob("tasks")):
            os.chown(entry, TENANT, TENANT)
        yield folder


def container_of(recorded: Recording, marker: str) -> tuple[str, bool]:
    """Returns the container id of the program's row, and whether it is flagged as missing."""

    def rows() -> list[dict[str, Any]]:
        all_rows: list[dict[str, Any]] = []
        for delivery in list(recorded.deliveries):
            all_rows += delivery.batch.to_pylist()
        return [row for row in all_rows if row["argv"][1:] == [marker.encode()]]

    until(lambda: bool(rows()), "the execution is recorded")
    (row,) = rows()
    return row["container_id"], "container_id_missing" in row["quality"]


@pytest.mark.parametrize(
    "name",
    [
        f"docker/{VICTIM}",
        f"docker-{VICTIM}.scope",
        f"libpod-{VICTIM}.scope/container",
        f"cri-containerd-{VICTIM}.scope/inner/most",
        f"kubepods/burstable/pod0f5c8a4e-2b7d-4c39-9a51-6d2e8b7c1f30/{VICTIM}",
    ],
    ids=["docker", "docker scope", "libpod scope", "containerd scope", "kubepods"],
)
def test_cgroup_named_after_a_container_is_not_taken_for_it(recorded: Recording, name: str) -> None:
    """A tenant names its own cgroup after another's container: its events have no container."""
    with delegated(0, "/user@65534.service") as own:
        marker = attack(name, own)
        assert container_of(recorded, marker) == UNKNOWN


def test_cgroup_from_before_the_start_is_not_taken_for_a_container() -> None:
    """A tenant names its cgroup so before the agent starts: its events have no container."""
    with delegated(0, "/user@65534.service") as own:
        attack(f"docker/{VICTIM}", own)
        with recording("execve", execve, enrichers=CONTAINERS) as recorded:
            marker = attack(f"docker/{VICTIM}", own)
    assert container_of(recorded, marker) == UNKNOWN


def test_cgroup_that_is_renamed_is_not_taken_for_a_container(recorded: Recording) -> None:
    """A tenant renames its v1 cgroup after another's container: its events have no container."""
    with delegated(V1, "/user@65534.service") as own:
        marker = attack(f"=docker-{VICTIM}.scope", own, Path(mount_of(0).mount_point))
        assert container_of(recorded, marker) == UNKNOWN


def test_nested_cgroup_keeps_the_tenants_own_container(recorded: Recording) -> None:
    """A tenant nests another container's name in its own: its events keep its own container."""
    with delegated(0, f"/docker/{OWN}") as own:
        for name in (f"docker/{VICTIM}", "init.scope"):
            marker = attack(name, own)
            assert container_of(recorded, marker) == (OWN, False)


def test_removed_cgroup_of_a_container_gives_no_name(recorded: Recording) -> None:
    """A tenant reuses the path of a cgroup that root removed: its events have no container."""
    name = f"docker-{VICTIM}.scope"
    with delegated(0, "/user@65534.service") as own:
        (own / name).mkdir()
        (own / name).rmdir()
        marker = attack(name, own)
        assert container_of(recorded, marker) == UNKNOWN


def test_labels_of_kubernetes_give_no_pod() -> None:
    """A tenant labels its Docker container as another tenant's pod: its events have no pod."""
    labels = {
        "io.kubernetes.pod.name": "bank-0",
        "io.kubernetes.pod.namespace": "victim",
        "io.kubernetes.container.name": "vault",
    }
    with fake_docker({OWN: labels}) as path, closing(connect(path)) as runtime:
        reported = [runtime.find_container(OWN), *runtime.list_containers()]
    assert len(reported) == 2
    for container in reported:
        assert container is not None
        pod = (container.pod_name, container.pod_namespace, container.pod_container)
        assert pod == (b"", b"", b"")
        assert container.labels["io.kubernetes.pod.name"] == "bank-0"  # shown as what it is
