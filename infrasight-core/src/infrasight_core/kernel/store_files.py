"""Finds the embedded store of a server on this machine, whose work on its own files is not events.

Each insert opens files, and a row for each would be the next insert. The server names only the
folder. The kernel says which process holds the folder's lock, and whose folder it is, so that a
server cannot hide the work of anyone else.
"""

import os
import re
import stat
from pathlib import Path

from attrs import frozen

LOCKS = Path("/proc/locks")
LONGEST_FOLDER = 254  # bytes, so that a slash fits behind it
# What ClickHouse opens for each statement beside its folder, and each insert's rows. Nothing that
# is worth hiding begins like one of these.
FURTHER_FILES = (
    b"/proc/thread-self/schedstat",
    b"/proc/self/loginuid",
    b"/dev/urandom",
    b"/memfd:rows",
)
_LEAST_DEPTH = 2  # `/var` would be too much to leave out
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# `1: FLOCK  ADVISORY  WRITE 16929 fe:00:9994353 0 EOF`; see proc_locks(5).
_LOCK = re.compile(r"\d+: FLOCK +ADVISORY +WRITE +(\d+) +([0-9a-f]+):([0-9a-f]+):(\d+) ", re.ASCII)


@frozen
class StoreFiles:
    """The store's files.

    Attributes:
        pid: The process that works on them.
        folder: The folder that they are in, absolute and without a slash at the end.
    """

    pid: int
    folder: bytes


def find_store_files(folder: bytes, locks: Path = LOCKS) -> StoreFiles | None:
    """Returns the files in a folder, and the process that has the folder locked.

    Args:
        folder: The folder.
        locks: The kernel's list of locks.

    Returns:
        None unless the folder is an absolute path without symbolic links, at least two directories
        deep, and belongs to the user of the process that locks it, and to that user alone.
    """
    path = os.fsdecode(folder)
    is_path = path.startswith("/") and "\0" not in path and len(folder) <= LONGEST_FOLDER
    if not is_path or path.count("/") < _LEAST_DEPTH or path != os.path.realpath(path):
        return None
    try:
        status = os.lstat(path)
        pid = _owner_of_lock(status, locks.read_text(encoding="ascii"))
        owner = Path(f"/proc/{pid}").stat().st_uid
    except (OSError, LookupError):
        return None
    is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & _OTHERS
    if not is_private or owner != status.st_uid:
        return None
    return StoreFiles(pid, folder)


def _owner_of_lock(status: os.stat_result, locks: str) -> int:
    """Returns the process that has a file locked. Raises LookupError."""
    device = (os.major(status.st_dev), os.minor(status.st_dev))
    for pid, major, minor, inode in _LOCK.findall(locks):
        if (int(major, 16), int(minor, 16)) == device and int(inode) == status.st_ino:
            return int(pid)
    raise LookupError("no process has it locked")
