"""Cgroups of a test, made in a hierarchy of the machine and removed at the end."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from infrasight_core.containers.cgroup_walk import CgroupMount, visible_mounts
from infrasight_core.kernel.cgroups import ROOT, V1, running_v1_hierarchy


def mount_of(mark: int) -> CgroupMount:
    """Where the v2 hierarchy (0) or the v1 hierarchy (`V1`) is mounted; skips if it is not."""
    found = [
        mount
        for mount in visible_mounts(running_v1_hierarchy())
        if mount.id_flag == mark and mount.root == "/"
    ]
    if not found:
        pytest.skip(f"no cgroup {'v1' if mark else 'v2'} hierarchy is mounted here")
    return found[0]


def cgroup_of(process: int | str) -> int:
    """What `cgroup_id` a process's events must have, as /proc and the file systems tell."""
    listed = Path(f"/proc/{process}/cgroup").read_text().splitlines()
    of = {int(line.split(":")[0]): line.split(":", 2)[2] for line in listed}
    v1 = running_v1_hierarchy()
    for number, mark in ((0, 0), *([(v1.number, V1)] if v1 else [])):
        if of.get(number, "/") != "/":
            return mark | Path(mount_of(mark).mount_point + of[number]).stat().st_ino
    return ROOT


@contextmanager
def temporary_cgroup(mark: int, path: str) -> Iterator[Path]:
    """Makes a cgroup and its missing parents; removes them and their children at the end."""
    top = Path(mount_of(mark).mount_point)
    folders = []
    folder = top
    for part in path.strip("/").split("/"):
        folder /= part
        if not folder.is_dir():
            folder.mkdir()
            folders.append(folder)
    try:
        yield folder
    finally:
        for each in reversed(folders):
            remove(each)


def remove(folder: Path) -> None:
    """Removes a cgroup and those in it."""
    if folder.is_dir():
        for inner in [entry for entry in folder.iterdir() if entry.is_dir()]:
            remove(inner)
        folder.rmdir()


def entering(*folders: Path) -> Callable[[], None]:
    """What puts the process that calls it into these cgroups: a `preexec_fn`."""

    def enter() -> None:
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    return enter


def run_in(folders: Sequence[Path], *command: str) -> None:
    """Runs a command in cgroups."""
    subprocess.run(command, preexec_fn=entering(*folders), check=True)
