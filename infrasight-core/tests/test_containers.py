"""Which container an event's process is in, under the real kernel and with real cgroups, in v2 and in v1."""

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
from infrasight_testbed.cgroups import cgroup_of, entering, made, mount_of, remove, run_in
from infrasight_testbed.system import until

SHORT_LIVES = 200
PARENT = f"/infrasight-test-{os.getpid()}/docker"
# Executes /bin/true where it is, enters the other cgroup, and executes it again there.
MOVES = """
import subprocess, sys
subprocess.run(['/bin/true', sys.argv[1]])
open(sys.argv[2], 'w').write('0')
subprocess.run(['/bin/true', sys.argv[1]])
"""

each_hierarchy = pytest.mark.parametrize("mark", [0, V1], ids=["v2", "v1"])


def container(number: int) -> str:
    """An id that no one else has."""
    return f"{os.getpid():016x}{number:048x}"


def rows_of(kept: Recording, program: bytes = b"/bin/true") -> list[dict[str, Any]]:
    """The rows of a program's executions with an argument, in their order."""
    rows = [
        row
        for row in kept.table.to_pylist()
        if row["argv"][:1] == [program] and len(row["argv"]) == 2
    ]
    return sorted(rows, key=lambda row: row["time"])


def said(row: dict[str, Any]) -> tuple[str, bool]:
    """The container, and whether it could not be had."""
    return row["container_id"], "container_id_missing" in row["quality"]


@pytest.fixture
def outside(request: pytest.FixtureRequest) -> Iterator[None]:
    """This process is in the root of v2 while the test runs, so that v1 counts; it is put back."""
    before = [
        line
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    ]
    top = Path(mount_of(0).folder)
    if before and before[0] != "0::/":
        (top / "cgroup.procs").write_text(str(os.getpid()))
    yield
    if before and before[0] != "0::/":
        (Path(f"{top}{before[0][3:]}") / "cgroup.procs").write_text(str(os.getpid()))


@each_hierarchy
def test_containers_that_live_for_milliseconds(mark: int, outside: None) -> None:
    """200 cgroups, each there for one execution and gone before the event is looked at: every row has its container's id."""
    keys = {}
    with made(mark, PARENT) as parent, recording("execve", execve, enrichers=CONTAINERS) as kept:
        for number in range(SHORT_LIVES):
            folder = parent / container(number)
            folder.mkdir()
            keys[container(number)] = mark | folder.stat().st_ino
            run_in([folder], "/bin/true", container(number))
            folder.rmdir()
    rows = rows_of(kept)
    assert [row["argv"][1].decode() for row in rows] == [
        container(number) for number in range(SHORT_LIVES)
    ]
    assert [said(row) for row in rows] == [(row["argv"][1].decode(), False) for row in rows]
    assert [row["cgroup_id"] for row in rows] == [keys[row["argv"][1].decode()] for row in rows]


@each_hierarchy
def test_containers_that_were_there_before(mark: int, outside: None) -> None:
    """Made before the recording begins, one with a cgroup of its own below: found by the walk at the start."""
    with (
        made(mark, f"{PARENT}/{container(1)}/init") as inner,
        made(mark, f"{PARENT}/{container(2)}") as other,
        recording("execve", execve, enrichers=CONTAINERS) as kept,
    ):
        run_in([inner], "/bin/true", "inner")
        run_in([other], "/bin/true", "other")
        run_in([inner.parent], "/bin/true", "itself")
    assert [(row["argv"][1], *said(row)) for row in rows_of(kept)] == [
        (b"inner", container(1), False),
        (b"other", container(2), False),
        (b"itself", container(1), False),
    ]


@each_hierarchy
def test_a_process_that_moves(mark: int, outside: None) -> None:
    """It executes in one container, moves to another and executes there; then out of all."""
    top = Path(mount_of(mark).folder)
    with (
        recording("execve", execve, enrichers=CONTAINERS) as kept,
        made(mark, f"{PARENT}/{container(1)}") as one,
        made(mark, f"{PARENT}/{container(2)}") as two,
    ):
        for to, name in ((two, "across"), (top, "out")):
            command = [sys.executable, "-S", "-E", "-c", MOVES, name, str(to / "cgroup.procs")]
            subprocess.run(command, preexec_fn=entering(one), check=True)
    assert [(row["argv"][1], *said(row)) for row in rows_of(kept)] == [
        (b"across", container(1), False),
        (b"across", container(2), False),
        (b"out", container(1), False),
        (b"out", "", False),
    ]


def test_v2_goes_before_v1() -> None:
    """A process in a container of either hierarchy: that of v2 counts, and its number."""
    with (
        made(V1, f"{PARENT}/{container(1)}") as v1,
        made(0, f"{PARENT}/{container(2)}") as v2,
        recording("execve", execve, enrichers=CONTAINERS) as kept,
    ):
        run_in([v1, v2], "/bin/true", "both")
        number = v2.stat().st_ino
    (row,) = rows_of(kept)
    assert (said(row), row["cgroup_id"]) == ((container(2), False), number)


def test_who_is_in_no_container() -> None:
    """This process, and one in a cgroup that is none's: empty, not flagged; the number is what the file systems say."""
    with recording("execve", execve, enrichers=CONTAINERS) as kept:
        own = cgroup_of("self")
        subprocess.run(["/bin/true", "here"], check=True)
        with made(0, f"/infrasight-test-{os.getpid()}.slice/a.service") as service:
            run_in([service], "/bin/true", "service")
    here, there = rows_of(kept)
    assert (said(here), said(there)) == (("", False), ("", False))
    assert here["cgroup_id"] == own


def test_one_that_is_not_known_is_flagged() -> None:
    """No tracker, and the walk is over: the row of a new cgroup says that its container could not be had; others do not."""
    untracked = ModuleType("untracked")
    untracked.__dict__.update(enrich=containers.enrich, infrasight_api=1)
    containers.cgroups.begin()
    containers.cgroups.look_around()
    with (
        made(0, f"{PARENT}/{container(1)}") as folder,
        recording("execve", execve, enrichers={"untracked": untracked}) as kept,
    ):
        run_in([folder], "/bin/true", "unknown")
        subprocess.run(["/bin/true", "known"], check=True)
    assert [(row["argv"][1], *said(row)) for row in rows_of(kept)] == [
        (b"unknown", "", True),
        (b"known", "", False),
    ]


def test_one_that_is_renamed_in_v1() -> None:
    """A v1 cgroup gets another container's name: from then on it is that one's."""
    with made(V1, PARENT) as parent, recording("execve", execve, enrichers=CONTAINERS) as kept:
        folder = parent / container(1)
        folder.mkdir()
        run_in([folder, Path(mount_of(0).folder)], "/bin/true", "before")
        kept.wait("execve")
        until(lambda: bool(kept.deliveries) and len(rows_of(kept)) == 1, "the first row")
        folder = folder.rename(parent / container(2))
        run_in([folder, Path(mount_of(0).folder)], "/bin/true", "after")
        remove(folder)
    assert [said(row) for row in rows_of(kept)] == [(container(1), False), (container(2), False)]
