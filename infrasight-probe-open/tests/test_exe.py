"""Each row has the executable's path at that moment, though a block caches the last one."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from infrasight_recording import Recording
from infrasight_testbed.syscalls import MS_BIND, call, in_child, own_mounts

Executables = Callable[..., list[set[str]]]
WORKLOAD = Path(__file__).parents[2] / "tests/support/workloads/moving_exe.c"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder without symbolic links in its path, which holds the program `moving_exe`."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name).resolve()
        subprocess.run(["cc", "-O2", "-static", "-o", path / "moving_exe", WORKLOAD], check=True)
        yield path


def placed(folder: Path, *parts: str) -> str:
    """The program at another place below."""
    at = folder.joinpath(*parts)
    at.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(folder / "moving_exe", at)
    return str(at)


@pytest.fixture
def executables(recorded: Recording) -> Executables:
    """Does some work in a child on one CPU; returns the executables of the rows of each path."""

    def record(work: Callable[[], object], *paths: str) -> list[set[str]]:
        def child() -> None:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            work()

        recorded.clear()
        in_child(child)
        recorded.wait("open")
        found: dict[str, set[str]] = {path: set() for path in paths}
        for row in recorded.table.select(["path", "exe"]).to_pylist():
            path = os.fsdecode(row["path"])
            if path in found:
                found[path].add(os.fsdecode(row["exe"]))
        return list(found.values())

    return record


def run(*words: str) -> None:
    """Runs the program."""
    subprocess.run(words, check=True)


def test_programs_in_turn_keep_their_executables(executables: Executables, folder: Path) -> None:
    """Programs that take turns on a CPU keep their own executables, also with the same name."""
    programs = [placed(folder, name, "program") for name in ("one", "two")]

    def work() -> None:
        for _ in range(4):
            running = [
                subprocess.Popen([program, *["open", f"m{i}"] * 500])
                for i, program in enumerate(programs)
            ]
            assert [process.wait() for process in running] == [0, 0]

    assert executables(work, "m0", "m1") == [{program} for program in programs]


def test_renamed_executable_has_its_current_path(executables: Executables, folder: Path) -> None:
    """After a rename of its file or folder a program's rows have the new path, later the old."""
    program = placed(folder, "a", "sh")
    renamed = f"{folder}/a/bash"
    moved = f"{folder}/b/bash"
    there = (
        "open",
        "m0",
        "rename",
        program,
        renamed,
        "open",
        "m1",
        "rename",
        f"{folder}/a",
        f"{folder}/b",
        "open",
        "m2",
    )
    back = (
        "rename",
        f"{folder}/b",
        f"{folder}/a",
        "open",
        "m3",
        "rename",
        renamed,
        program,
        "open",
        "m4",
    )
    found = executables(lambda: run(program, *there, *back), "m0", "m1", "m2", "m3", "m4")
    assert found == [{program}, {renamed}, {moved}, {renamed}, {program}]


def test_executable_on_a_moved_mount_has_its_current_path(
    executables: Executables, folder: Path
) -> None:
    """After its mount is moved, a program's rows have the new path."""
    placed(folder, "real", "program")
    for name in ("here", "there"):
        (folder / name).mkdir()

    def work() -> None:
        own_mounts()
        assert call("mount", bytes(folder / "real"), bytes(folder / "here"), 0, MS_BIND, 0) == 0
        run(
            f"{folder}/here/program",
            "open",
            "m0",
            "open",
            "m1",
            "move",
            f"{folder}/here",
            f"{folder}/there",
            "open",
            "m2",
        )

    here = f"{folder}/here/program"
    there = f"{folder}/there/program"
    assert executables(work, "m0", "m1", "m2") == [{here}, {here}, {there}]


@pytest.mark.parametrize("length", [255, 256, 300])
def test_long_paths_are_complete_or_flagged(
    executables: Executables, folder: Path, length: int
) -> None:
    """A path longer than what a block caches is complete in each row."""
    rest = length - len(str(folder)) - 2
    program = placed(folder, "d" * (rest // 2), "f" * (rest - rest // 2))
    assert len(program) == length
    assert executables(
        lambda: run(program, "open", "m0", "open", "m1", "open", "m0"), "m0", "m1"
    ) == [{program}, {program}]


def test_executable_below_many_folders_has_its_current_path(
    executables: Executables, folder: Path
) -> None:
    """Below more folders than are compared the path is read each time: a rename shows."""
    deep = ["d"] * 20
    program = placed(folder, "a", *deep, "program")
    renamed = "/".join([str(folder), "b", *deep, "program"])
    found = executables(
        lambda: run(program, "open", "m0", "rename", f"{folder}/a", f"{folder}/b", "open", "m1"),
        "m0",
        "m1",
    )
    assert found == [{program}, {renamed}]


def test_deleted_executable_keeps_its_path(executables: Executables, folder: Path) -> None:
    """A program that deletes its own file keeps its last path."""
    program = placed(folder, "gone")
    assert executables(
        lambda: run(program, "open", "m0", "unlink", program, "open", "m1"), "m0", "m1"
    ) == [
        {program},
        {program},
    ]
