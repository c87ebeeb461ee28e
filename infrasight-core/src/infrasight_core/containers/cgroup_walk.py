"""Walks the mounted cgroup hierarchies: each cgroup, the id that events carry, and its maker."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from attrs import frozen

from infrasight_core.kernel.cgroups import ROOT, V1, V1Hierarchy

ROOT_USER = 0
UNKNOWN_USER = -1
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


class Cgroup(NamedTuple):
    """A cgroup that exists.

    Attributes:
        id: The id that events of its processes carry.
        path: Its path from the root of the hierarchy.
        maker: The user who may have given it its name, as far as the owners of the cgroups above it
            tell: 0 if only root can create a cgroup there.
    """

    id: int
    path: str
    maker: int


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


def walk_cgroups(mount: CgroupMount) -> Iterator[Cgroup]:
    """Yields a mount's own cgroup and every cgroup below it.

    A cgroup that is removed during the walk may be missing. The root of a hierarchy is left out.
    """
    top = mount.root.rstrip("/")
    status = Path(mount.mount_point).stat()
    if status.st_ino != ROOT:
        yield Cgroup(mount.id_flag | status.st_ino, top or "/", ROOT_USER)
    pending = [(mount.mount_point, top, _maker_below(status, ROOT_USER))]
    while pending:
        folder, path, maker = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    inner = Cgroup(mount.id_flag | entry.inode(), f"{path}/{entry.name}", maker)
                    yield inner
                    maker_below = _maker_below(entry.stat(follow_symlinks=False), maker)
                    pending.append((entry.path, inner.path, maker_below))
        except (FileNotFoundError, NotADirectoryError):  # the cgroup was removed
            if folder == mount.mount_point:
                raise


def _maker_below(status: os.stat_result, maker: int) -> int:
    """Returns who may create cgroups in a cgroup, which `maker` may have created."""
    if maker != ROOT_USER or status.st_uid != ROOT_USER:
        return maker or status.st_uid
    is_writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return UNKNOWN_USER if is_writable_by_others else ROOT_USER


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
