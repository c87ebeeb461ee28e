"""Cgroups of a test, made in a hierarchy of the machine and removed at the end."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from infrasight_core.containers.cgroup_walk import CgroupMount, visible_mounts
from infrasight_core.kernel.cgroups import ROOT, V1, running_v1_hierarchy


def mount_of(id_flag: int) -> CgroupMount:
    """Returns the mount of the v2 hierarchy (0) or of the v1 hierarchy (`V1`).

    The test is skipped if the hierarchy is not mounted whole.
    """
    for mount in visible_mounts(running_v1_hierarchy()):
        if mount.id_flag == id_flag and mount.root == "/":
            return mount
    pytest.skip(f"no cgroup {'v1' if id_flag else 'v2'} hierarchy is mounted here")


def cgroup_id_of(process: int | str) -> int:
    """Returns the `cgroup_id` of a process's events, by /proc and the file systems."""
    paths: dict[int, str] = {}
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        hierarchy, _, cgroup = line.split(":", 2)
        paths[int(hierarchy)] = cgroup
    hierarchies = [(0, 0)]
    v1 = running_v1_hierarchy()
    if v1 is not None:
        hierarchies.append((v1.number, V1))
    for number, id_flag in hierarchies:
        path = paths.get(number, "/")
        if path != "/":
            return id_flag | Path(mount_of(id_flag).mount_point + path).stat().st_ino
    return ROOT


@contextmanager
def temporary_cgroup(id_flag: int, path: str) -> Iterator[Path]:
    """Makes a cgroup and its missing parents; removes them and their children at the end."""
    folder = Path(mount_of(id_flag).mount_point)
    new_folders = []
    for part in path.strip("/").split("/"):
        folder /= part
        if not folder.is_dir():
            folder.mkdir()
            new_folders.append(folder)
    try:
        yield folder
    finally:
        for new_folder in reversed(new_folders):
            remove_cgroup(new_folder)


def remove_cgroup(folder: Path) -> None:
    """Removes a cgroup and those in it."""
    if folder.is_dir():
        for inner in [entry for entry in folder.iterdir() if entry.is_dir()]:
            remove_cgroup(inner)
        folder.rmdir()


def cgroup_entry(*folders: Path) -> Callable[[], None]:
    """Returns a `preexec_fn` with which a child process enters these cgroups."""

    def enter() -> None:
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    return enter


def run_in_cgroups(folders: Sequence[Path], *command: str) -> None:
    """Runs a command in cgroups."""
    subprocess.run(command, preexec_fn=cgroup_entry(*folders), check=True)


@contextmanager
def children_with_memory(limit: int) -> Iterator[None]:
    """Processes that start meanwhile may use so much memory together, then the kernel kills one."""
    folder = Path("/sys/fs/cgroup/memory")
    file = "memory.limit_in_bytes"
    if not folder.is_dir():
        folder = folder.parent
        file = "memory.max"
    previous = folder / _memory_cgroup()
    if not (previous / "cgroup.procs").exists():
        pytest.skip("no cgroup hierarchy limits memory here")
    group = folder / f"infrasight-memory-{os.getpid()}"
    group.mkdir()
    try:
        if not (group / file).exists():
            pytest.skip("the memory controller is not enabled here")
        (group / file).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (previous / "cgroup.procs").write_text(str(os.getpid()))
        # The processes have ended, or go back as well.
        for process in (group / "cgroup.procs").read_text().split():
            (previous / "cgroup.procs").write_text(process)
        group.rmdir()


def _memory_cgroup() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return path.strip("/")
    return ""
