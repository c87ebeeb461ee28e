"""Whose container an event is of, from the kernel to the table: real containers, an agent, a server, a store."""

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
SHORT = 200


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
    """A system on the embedded store."""
    with running_system(tmp_path) as running:
        yield running


def start_agent(system: System, folder: Path, socket: Path) -> Process:
    """An agent that asks the runtime at this socket, which may take its time on a machine that has much to do."""
    settings = folder / "agent.toml"
    settings.write_text(
        f'probes = ["execve"]\n[options.containers]\nsockets = ["{socket}"]\nwait = 2.0\n'
    )
    return system.start_agent("--config", str(settings))


def executed(system: System, marker: str) -> list[dict[str, Any]]:
    """The rows of the marked programs that containers executed: what they are, and what is known of them now."""
    columns = "argv[3] AS number, container_id, container_name, container_image, pod_name, pod_namespace, pod_container, "
    columns += "exe, quality, user"
    return system.query(
        f"SELECT {columns} FROM execve_events WHERE argv[2] = '{marker}' AND return_code = 0 AND argv[1] = '/bin/true'"
    )


def test_containers_that_are_gone_at_once(system: System, podman: Podman, tmp_path: Path) -> None:
    """200 containers that execute one program and are removed: each row has its container's own id; all but 1 % the name and
    image too, a few maybe as they were learned later; and a row that went without them says so."""
    system.start_server()
    agent = start_agent(system, tmp_path, podman.socket)
    podman.run(
        command=("/bin/true", "first")
    )  # the runtime's events are being followed from here on

    def run(number: int) -> str:
        file = tmp_path / f"id-{number}"
        options = (
            "--rm",
            "--network",
            "none",
            "--cgroup-parent",
            f"/{podman.cgroup}",
            "--cidfile",
            str(file),
        )
        podman(
            "run",
            *options,
            "--name",
            f"short-{number}",
            IMAGE,
            "/bin/true",
            "mark-short",
            str(number),
        )
        return file.read_text()

    with ThreadPoolExecutor(2) as threads:
        ids = list(threads.map(run, range(SHORT)))
    until(lambda: len(executed(system, "mark-short")) == SHORT, "every row is there")
    known = "SELECT count() AS n FROM execve_events WHERE argv[2] = 'mark-short' AND container.image != '' "
    known += "AND container.name = concat('short-', argv[3]) AND return_code = 0 AND argv[1] = '/bin/true'"
    until(
        lambda: int(system.query(known)[0]["n"]) >= 0.99 * SHORT,
        "99 % of the containers are known by name and image",
    )
    assert agent.stop() == 0
    rows = executed(system, "mark-short")
    assert sorted(int(row["number"]) for row in rows) == list(range(SHORT))
    assert [row["container_id"] for row in rows] == [ids[int(row["number"])] for row in rows]
    named = [row for row in rows if "container_name_missing" not in row["quality"]]
    assert named
    for row in named:
        assert (row["container_name"], row["container_image"]) == (f"short-{row['number']}", IMAGE)
        assert (row["pod_name"], row["pod_namespace"], row["pod_container"], row["exe"]) == (
            "",
            "",
            "",
            "/bin/busybox",
        )
    for row in rows:
        assert set(row["quality"]) <= {
            "container_name_missing",
            "container_image_missing",
            "pod_name_missing",
        } | {
            "pod_namespace_missing",
            "pod_container_missing",
        }


def test_pods(system: System, containerd: Containerd, tmp_path: Path) -> None:
    """Containers of pods: each row has the names of its container, pod and namespace, and the table has the labels."""
    system.start_server()
    pod = containerd.run_pod("shop-1", "market", {"app": "shop"})
    agent = start_agent(system, tmp_path, containerd.socket)
    ids = [
        containerd.run(pod, f"till-{number}", "/bin/true", "mark-pod", str(number))
        for number in range(10)
    ]
    until(lambda: len(executed(system, "mark-pod")) == len(ids), "every row is there")
    rows = sorted(executed(system, "mark-pod"), key=lambda row: int(row["number"]))
    assert [row["container_id"] for row in rows] == ids
    for row in rows:
        assert (row["pod_name"], row["pod_namespace"], row["container_image"]) == (
            "shop-1",
            "market",
            POD_IMAGE,
        )
        assert row["container_name"] == row["pod_container"] == f"till-{row['number']}"
        assert row["quality"] == []
    asked = "SELECT DISTINCT labels['app'] AS app, container.pod_name AS pod FROM execve_events WHERE argv[2] = 'mark-pod'"
    until(
        lambda: system.query(asked) == [{"app": "shop", "pod": "shop-1"}],
        "the table knows the labels",
    )
    found = system.query(
        "SELECT container_id, labels['app'] AS app FROM containers FINAL WHERE pod_name = 'shop-1'"
    )
    assert {row["app"] for row in found} == {"shop"}
    assert set(ids) <= {row["container_id"] for row in found}
    assert agent.stop() == 0


def test_what_is_no_container(system: System, podman: Podman, tmp_path: Path) -> None:
    """The host's own programs are in no container, and their rows do not say that anything is missing."""
    system.start_server()
    agent = start_agent(system, tmp_path, podman.socket)
    subprocess.run(["/bin/true", "mark-host", "0"], check=True)
    assert agent.stop() == 0
    (row,) = executed(system, "mark-host")
    assert (row["container_id"], row["container_name"], row["quality"]) == ("", "", [])
