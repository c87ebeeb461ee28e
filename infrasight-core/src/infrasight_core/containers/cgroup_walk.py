"""The cgroups that are there: a walk of the mounted hierarchies, by the numbers that events carry."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy

_OCTAL = re.compile(r"\\([0-7]{3})")


@frozen
class Mount:
    """Where a hierarchy is mounted.

    Attributes:
        folder: The mount point.
        root: Which of the hierarchy's cgroups that is; `/` for all of it.
        mark: What its ids are marked with.
    """

    folder: str
    root: str
    mark: int


def mounts(mountinfo: str, v1: V1Hierarchy | None) -> list[Mount]:
    """The mounts of the v2 hierarchy and of the v1 hierarchy that counts, as far as no later one lies over them.

    Args:
        mountinfo: The text of a /proc/PID/mountinfo; source: proc_pid_mountinfo(5).
        v1: The v1 hierarchy that counts.
    """
    found: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        fields, _, behind = line.partition(" - ")
        root, folder = (_unescaped(text) for text in fields.split(" ")[3:5])
        kind, _, options = behind.split(" ", 2)
        found.pop(folder, None)
        if kind == "cgroup2":
            found[folder] = Mount(folder, root, 0)
        elif kind == "cgroup" and v1 and v1.controller in options.split(","):
            found[folder] = Mount(folder, root, V1)
    return list(found.values())


def walk(mount: Mount) -> Iterator[tuple[int, str]]:
    """The number and the path of every cgroup below a mount, and of its own; one that goes meanwhile may be missing."""
    top = mount.root.rstrip("/")
    own = Path(mount.folder).stat().st_ino
    if own != ROOT:
        yield mount.mark | own, top or "/"
    waiting = [(mount.folder, top)]
    while waiting:
        folder, path = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        yield mount.mark | entry.inode(), f"{path}/{entry.name}"
                        waiting.append((entry.path, f"{path}/{entry.name}"))
        except (FileNotFoundError, NotADirectoryError):  # it has gone
            if folder == mount.folder:
                raise


def running_mounts(v1: V1Hierarchy | None) -> list[Mount]:
    """Those that this process sees: of each hierarchy, the first of those that show most, which is the host's."""
    listed = mounts(
        Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"), v1
    )
    seen = [
        mount for mount in listed if Path(mount.folder, "cgroup.procs").exists()
    ]  # and no other lies over a folder above
    best: dict[int, Mount] = {}
    for mount in sorted(seen, key=lambda mount: len(mount.root)):
        best.setdefault(mount.mark, mount)
    return list(best.values())


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
