"""Walks the mounted cgroup hierarchies and yields each cgroup with the id that events carry."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


@frozen
class CgroupMount:
    """A mounted cgroup hierarchy.

    Attributes:
        mount_point: The folder where it is mounted.
        root: The cgroup that is mounted there; `/` for the whole hierarchy.
        id_flag: The bits that the events' cgroup ids have in addition to the inode number.
    """

    mount_point: str
    root: str
    id_flag: int


def parse_mounts(mountinfo: str, v1: V1Hierarchy | None) -> list[CgroupMount]:
    """Returns the mounts of the v2 hierarchy and of one v1 hierarchy; covered mounts are left out.

    Args:
        mountinfo: The text of a /proc/PID/mountinfo; source: proc_pid_mountinfo(5).
        v1: The v1 hierarchy that identifies containers, if there is one.
    """
    mounts: dict[str, CgroupMount] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        root, mount_point = (_unescape(text) for text in fields.split(" ")[3:5])
        file_system, _, options = rest.split(" ", 2)
        mounts.pop(mount_point, None)  # a later mount covers an earlier one
        if file_system == "cgroup2":
            mounts[mount_point] = CgroupMount(mount_point, root, 0)
        elif file_system == "cgroup" and v1 and v1.controller in options.split(","):
            mounts[mount_point] = CgroupMount(mount_point, root, V1)
    return list(mounts.values())


def walk_cgroups(mount: CgroupMount) -> Iterator[tuple[int, str]]:
    """Yields the id and the path of a mount's own cgroup and of every cgroup below it.

    A cgroup that is removed during the walk may be missing. The root of a hierarchy is left out.
    """
    top = mount.root.rstrip("/")
    own_inode = Path(mount.mount_point).stat().st_ino
    if own_inode != ROOT:
        yield mount.id_flag | own_inode, top or "/"
    pending = [(mount.mount_point, top)]
    while pending:
        folder, path = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        yield mount.id_flag | entry.inode(), f"{path}/{entry.name}"
                        pending.append((entry.path, f"{path}/{entry.name}"))
        except (FileNotFoundError, NotADirectoryError):  # the cgroup was removed
            if folder == mount.mount_point:
                raise


def visible_mounts(v1: V1Hierarchy | None) -> list[CgroupMount]:
    """Returns one mount of each hierarchy that this process sees.

    Of several mounts of a hierarchy, the first of those that show the most of it is the host's.
    """
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    widest: dict[int, CgroupMount] = {}
    for mount in sorted(parse_mounts(mountinfo, v1), key=lambda mount: len(mount.root)):
        # A mount on a folder above would hide the files.
        if Path(mount.mount_point, "cgroup.procs").exists():
            widest.setdefault(mount.id_flag, mount)
    return list(widest.values())


def _unescape(text: str) -> str:
    return _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
