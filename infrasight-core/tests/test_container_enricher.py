"""The enricher `containers` under the real kernel, with real cgroups in v2 and in v1."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import infrasight_core.enrichers.containers as containers
import infrasight_probe_execve.plugin as execve
import pytest
from infrasight_core.kernel.cgroups import V1
from infrasight_recording import CONTAINERS, Recording, recording
from infrasight_testbed.cgroups import (
    cgroup_entry,
    cgroup_id_of,
    mount_of,
    remove_cgroup,
    run_in_cgroups,
    temporary_cgroup,
)
from infrasight_testbed.system import until

SHORT_LIVES = 200
PARENT = f"/infrasight-test-{os.getpid()}/docker"
# Executes /bin/true, enters the cgroup of the second argument, and executes it again there.
MOVE_SCRIPT = """
import subprocess, sys
subprocess.run(['/bin/true', sys.argv[1]])
open(sys.argv[2], 'w').write('0')
subprocess.run(['/bin/true', sys.argv[1]])
"""

each_hierarchy = pytest.mark.parametrize("id_flag", [0, V1], ids=["v2", "v1"])


def container(number: int) -> str:
    """Returns a container id that no other test run uses."""
    return f"{os.getpid():016x}{number:048x}"


def rows_of(recorded: Recording, program: bytes = b"/bin/true") -> list[dict[str, Any]]:
    """Returns this test's executions of a program with one argument, in order of time."""
    executions = recorded.table.to_pylist()
    own = {os.getpid()} | {row["pid"] for row in executions if row["ppid"] == os.getpid()}
    rows = []
    for row in executions:
        if row["ppid"] in own and row["argv"][:1] == [program] and len(row["argv"]) == 2:
            rows.append(row)
    return sorted(rows, key=lambda row: row["time"])


def container_of(row: dict[str, Any]) -> tuple[str, bool]:
    """Returns the container id, and whether it is flagged as missing."""
    return row["container_id"], "container_id_missing" in row["quality"]


def containers_of(recorded: Recording) -> list[tuple[bytes, str, bool]]:
    """Returns the argument, the container id and the flag of each row."""
    return [(row["argv"][1], *container_of(row)) for row in rows_of(recorded)]


@pytest.fixture
def outside_of_v2() -> Iterator[None]:
    """This process is in the root of v2 during the test, so that its v1 cgroup counts."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    cgroup = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    top = Path(mount_of(0).mount_point)
    if cgroup == "/":
        yield
        return
    (top / "cgroup.procs").write_text(str(os.getpid()))
    yield
    (Path(f"{top}{cgroup}") / "cgroup.procs").write_text(str(os.getpid()))


@each_hierarchy
def test_containers_of_milliseconds_are_identified(id_flag: int, outside_of_v2: None) -> None:
    """Cgroups that are removed before their events are read: every row has its container."""
    cgroup_ids = {}
    with (
        temporary_cgroup(id_flag, PARENT) as parent,
        recording("execve", execve, enrichers=CONTAINERS) as recorded,
    ):
        for number in range(SHORT_LIVES):
            folder = parent / container(number)
            folder.mkdir()
            cgroup_ids[container(number)] = id_flag | folder.stat().st_ino
            run_in_cgroups([folder], "/bin/true", container(number))
            folder.rmdir()
    rows = rows_of(recorded)
    arguments = [row["argv"][1].decode() for row in rows]
    assert arguments == [container(number) for number in range(SHORT_LIVES)]
    assert [container_of(row) for row in rows] == [(argument, False) for argument in arguments]
    assert [row["cgroup_id"] for row in rows] == [cgroup_ids[argument] for argument in arguments]


@each_hierarchy
def test_existing_containers_are_identified(id_flag: int, outside_of_v2: None) -> None:
    """The walk at the start finds containers, also one that has its own cgroup below."""
    with (
        temporary_cgroup(id_flag, f"{PARENT}/{container(1)}/init") as inner,
        temporary_cgroup(id_flag, f"{PARENT}/{container(2)}") as other,
        recording("execve", execve, enrichers=CONTAINERS) as recorded,
    ):
        run_in_cgroups([inner], "/bin/true", "inner")
        run_in_cgroups([other], "/bin/true", "other")
        run_in_cgroups([inner.parent], "/bin/true", "itself")
    assert containers_of(recorded) == [
        (b"inner", container(1), False),
        (b"other", container(2), False),
        (b"itself", container(1), False),
    ]


@each_hierarchy
def test_moving_process_has_the_container_of_each_event(id_flag: int, outside_of_v2: None) -> None:
    """A process executes in one container, then in another one or outside of all."""
    top = Path(mount_of(id_flag).mount_point)
    with (
        recording("execve", execve, enrichers=CONTAINERS) as recorded,
        temporary_cgroup(id_flag, f"{PARENT}/{container(1)}") as one,
        temporary_cgroup(id_flag, f"{PARENT}/{container(2)}") as two,
    ):
        for target, name in ((two, "across"), (top, "out")):
            procs = str(target / "cgroup.procs")
            command = [sys.executable, "-S", "-E", "-c", MOVE_SCRIPT, name, procs]
            subprocess.run(command, preexec_fn=cgroup_entry(one), check=True)
    assert containers_of(recorded) == [
        (b"across", container(1), False),
        (b"across", container(2), False),
        (b"out", container(1), False),
        (b"out", "", False),
    ]


def test_v2_takes_precedence_over_v1() -> None:
    """A process in a container of each hierarchy has the container and the cgroup id of v2."""
    with (
        temporary_cgroup(V1, f"{PARENT}/{container(1)}") as v1,
        temporary_cgroup(0, f"{PARENT}/{container(2)}") as v2,
        recording("execve", execve, enrichers=CONTAINERS) as recorded,
    ):
        run_in_cgroups([v1, v2], "/bin/true", "both")
        cgroup_id = v2.stat().st_ino
    (row,) = rows_of(recorded)
    assert (container_of(row), row["cgroup_id"]) == ((container(2), False), cgroup_id)


def test_process_outside_of_containers_has_an_empty_id() -> None:
    """The id is empty and not flagged; the cgroup id is that of the file systems."""
    with recording("execve", execve, enrichers=CONTAINERS) as recorded:
        own_cgroup_id = cgroup_id_of("self")
        subprocess.run(["/bin/true", "here"], check=True)
        with temporary_cgroup(0, f"/infrasight-test-{os.getpid()}.slice/a.service") as service:
            run_in_cgroups([service], "/bin/true", "service")
    assert containers_of(recorded) == [(b"here", "", False), (b"service", "", False)]
    assert rows_of(recorded)[0]["cgroup_id"] == own_cgroup_id


def test_unknown_cgroup_is_flagged() -> None:
    """Without the tracker, a cgroup that is newer than the walk has no container."""
    untracked = ModuleType("untracked")
    untracked.__dict__.update(enrich=containers.enrich, infrasight_api=1)
    containers.cgroup_index.require_walk()
    containers.cgroup_index.refresh()
    with (
        temporary_cgroup(0, f"{PARENT}/{container(1)}") as folder,
        recording("execve", execve, enrichers={"untracked": untracked}) as recorded,
    ):
        run_in_cgroups([folder], "/bin/true", "unknown")
        subprocess.run(["/bin/true", "known"], check=True)
    assert containers_of(recorded) == [(b"unknown", "", True), (b"known", "", False)]


def test_renamed_v1_cgroup_has_another_container() -> None:
    """Events after the rename belong to the container of the new name."""
    with (
        temporary_cgroup(V1, PARENT) as parent,
        recording("execve", execve, enrichers=CONTAINERS) as recorded,
    ):
        v2_root = Path(mount_of(0).mount_point)
        folder = parent / container(1)
        folder.mkdir()
        run_in_cgroups([folder, v2_root], "/bin/true", "before")
        recorded.wait("execve")
        until(lambda: bool(recorded.deliveries) and len(rows_of(recorded)) == 1, "the first row")
        folder = folder.rename(parent / container(2))
        run_in_cgroups([folder, v2_root], "/bin/true", "after")
        remove_cgroup(folder)
    assert containers_of(recorded) == [
        (b"before", container(1), False),
        (b"after", container(2), False),
    ]
