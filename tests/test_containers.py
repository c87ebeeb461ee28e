"""Containers from the kernel to the table: real runtimes, an agent, a server and a store."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.containerd import IMAGE as POD_IMAGE
from infrasight_testbed.containerd import Containerd, running_containerd
from infrasight_testbed.podman import IMAGE, Podman, running_podman
from infrasight_testbed.system import Process, System, running_system, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers and recording need root")
POD_COLUMNS = ("pod_name", "pod_namespace", "pod_container")
MISSING_FLAGS = {
    f"{column}_missing" for column in ("container_name", "container_image", *POD_COLUMNS)
}


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """A podman that answers."""
    with running_podman() as running:
        yield running


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    """A containerd that answers."""
    with running_containerd() as running:
        yield running


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A system with an embedded store."""
    with running_system(tmp_path) as running:
        yield running


def start_agent(system: System, folder: Path, socket: Path) -> Process:
    """Starts an agent with the runtime at this socket, which may take its time to answer."""
    settings = folder / "agent.toml"
    settings.write_text(
        f'probes = ["execve"]\n[options.containers]\nsockets = ["{socket}"]\nwait = 2.0\n'
    )
    return system.start_agent("--config", str(settings))


def executions(system: System, marker: str) -> list[dict[str, Any]]:
    """Returns the rows of the programs with this argument that containers executed."""
    return system.query(
        "SELECT argv[3] AS number, container_id, container_name, container_image, pod_name, "
        "pod_namespace, pod_container, exe, quality, user FROM execve_events "
        f"WHERE argv[2] = '{marker}' AND return_code = 0 AND argv[1] = '/bin/true'"
    )


@pytest.mark.parametrize(
    "count",
    [50, pytest.param(200, marks=pytest.mark.slow(reason="four times as many take longer"))],
)
def test_containers_that_are_removed_at_once_are_named(
    system: System, podman: Podman, tmp_path: Path, count: int
) -> None:
    """Every row of short containers has its container's id; all but two have name and image, too.

    Some names may come with a later update, and a row without them is flagged.
    """
    system.start_server()
    agent = start_agent(system, tmp_path, podman.socket)
    podman.run(command=("/bin/true", "first"))  # from here on the runtime's events are followed

    def run(number: int) -> str:
        id_file = tmp_path / f"id-{number}"
        options = ["--rm", "--network", "none", "--cgroup-parent", f"/{podman.cgroup}"]
        options += ["--cidfile", str(id_file), "--name", f"short-{count}-{number}"]
        podman("run", *options, IMAGE, "/bin/true", f"mark-{count}", str(number))
        return id_file.read_text()

    with ThreadPoolExecutor(2) as threads:
        ids = list(threads.map(run, range(count)))
    until(lambda: len(executions(system, f"mark-{count}")) == count, "every row is stored")
    named_rows = (
        f"SELECT count() AS n FROM execve_events WHERE argv[2] = 'mark-{count}' "
        f"AND container.image != '' AND container.name = concat('short-{count}-', argv[3]) "
        "AND return_code = 0 AND argv[1] = '/bin/true'"
    )
    until(
        lambda: int(system.query(named_rows)[0]["n"]) >= count - 2,
        "all but two of the containers are known by name and image",
    )
    assert agent.stop() == 0
    rows = executions(system, f"mark-{count}")
    assert sorted(int(row["number"]) for row in rows) == list(range(count))
    assert [row["container_id"] for row in rows] == [ids[int(row["number"])] for row in rows]
    named = [row for row in rows if "container_name_missing" not in row["quality"]]
    assert named
    for row in named:
        assert (row["container_name"], row["container_image"]) == (
            f"short-{count}-{row['number']}",
            IMAGE,
        )
        assert [row[column] for column in POD_COLUMNS] == [""] * len(POD_COLUMNS)
        assert row["exe"] == "/bin/busybox"
    for row in rows:
        assert set(row["quality"]) <= MISSING_FLAGS


def test_containers_of_pods_have_names_and_labels(
    system: System, containerd: Containerd, tmp_path: Path
) -> None:
    """Each row has the names of container, pod and namespace; the table has the labels."""
    system.start_server()
    pod = containerd.run_pod("shop-1", "market", {"app": "shop"})
    agent = start_agent(system, tmp_path, containerd.socket)
    ids = [
        containerd.run(pod, f"till-{number}", "/bin/true", "mark-pod", str(number))
        for number in range(10)
    ]
    until(lambda: len(executions(system, "mark-pod")) == len(ids), "every row is stored")
    rows = sorted(executions(system, "mark-pod"), key=lambda row: int(row["number"]))
    assert [row["container_id"] for row in rows] == ids
    for row in rows:
        assert (row["pod_name"], row["pod_namespace"]) == ("shop-1", "market")
        assert row["container_image"] == POD_IMAGE
        assert row["container_name"] == row["pod_container"] == f"till-{row['number']}"
        assert row["quality"] == []
    labels = (
        "SELECT DISTINCT labels['app'] AS app, container.pod_name AS pod "
        "FROM execve_events WHERE argv[2] = 'mark-pod'"
    )
    until(
        lambda: system.query(labels) == [{"app": "shop", "pod": "shop-1"}],
        "the events have the labels",
    )
    containers = system.query(
        "SELECT container_id, labels['app'] AS app FROM containers FINAL WHERE pod_name = 'shop-1'"
    )
    assert {row["app"] for row in containers} == {"shop"}
    assert set(ids) <= {row["container_id"] for row in containers}
    assert agent.stop() == 0


def test_process_outside_of_containers_is_not_flagged(
    system: System, podman: Podman, tmp_path: Path
) -> None:
    """The container columns of the host's own programs are empty and complete."""
    system.start_server()
    agent = start_agent(system, tmp_path, podman.socket)
    subprocess.run(["/bin/true", "mark-host", "0"], check=True)
    assert agent.stop() == 0
    (row,) = executions(system, "mark-host")
    assert (row["container_id"], row["container_name"], row["quality"]) == ("", "", [])
