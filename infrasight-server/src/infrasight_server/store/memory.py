"""Decides how much memory the store may use, from what this machine or container has."""

import os
from pathlib import Path

from infrasight_server.store.connections import CONNECTIONS

_STORE_SHARE = 0.7
"""The rest is for the server: batches that wait for their insert, and answers on their way."""
_QUERY_SHARE = 0.5
"""Of the store's memory; the rest is for inserts and merges."""
_CGROUP = Path("/sys/fs/cgroup")
_PROC_CGROUP = Path("/proc/self/cgroup")


def store_memory() -> int:
    """Returns the bytes that the embedded store may use."""
    return int(memory_limit() * _STORE_SHARE)


def query_memory(store_bytes: int) -> int:
    """Returns the bytes that all queries together may use of the store's memory."""
    return int(store_bytes * _QUERY_SHARE)


def memory_of_one_query(all_queries_bytes: int) -> int:
    """Returns the bytes that each query may use, so that all that run at once have enough.

    A query may need half as much again, while the store describes its answer.
    """
    return max(1, all_queries_bytes * 2 // 3 // CONNECTIONS)


def memory_limit(root: Path = _CGROUP, proc_cgroup: Path = _PROC_CGROUP) -> int:
    """Returns the bytes that this process may use: the least limit of its control groups.

    Args:
        root: Where the control groups are mounted.
        proc_cgroup: The file that names those of this process.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder, file in _memory_groups(root, proc_cgroup):
        # In a container, the path may be that of the host: then the mounted root is the group.
        for group in (folder, *folder.parents):
            limits += _read_limit(group / file)
            if group == root:
                break
    return min(limits)


def _memory_groups(root: Path, proc_cgroup: Path) -> list[tuple[Path, str]]:
    """Returns the folder of each hierarchy that may limit memory, and the name of its file."""
    try:
        lines = proc_cgroup.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        relative = path.lstrip("/")
        if not controllers:
            groups.append((root / relative, "memory.max"))
            groups.append((root / "unified" / relative, "memory.max"))
        elif "memory" in controllers.split(","):
            groups.append((root / "memory" / relative, "memory.limit_in_bytes"))
    return groups


def _read_limit(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []  # `max` is no limit
