"""Measures the memory of another process, now and at its peak."""

import re
from pathlib import Path

MIB = 1 << 20


def reset_peak(pid: int) -> int:
    """Forgets the peak so far; returns the resident memory now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """Returns the most resident memory since `reset_peak`, in bytes."""
    return _status(pid, "VmHWM")


def memory_now(pid: int) -> tuple[int, int]:
    """Returns the resident and the proportional memory (RSS, PSS), in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB$", rollup, re.MULTILINE))
    return int(found["Rss"]) << 10, int(found["Pss"]) << 10


def memory_of_maps(pid: int) -> int:
    """Returns the kernel's memory for the BPF maps that a process holds open, in bytes."""
    sizes: dict[str, int] = {}
    for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = descriptor.read_text()
        except FileNotFoundError:  # closed meanwhile
            continue
        found = dict(re.findall(r"^(map_id|memlock):\s+(\d+)$", text, re.MULTILINE))
        if "map_id" in found:
            sizes[found["map_id"]] = int(found["memlock"])
    return sum(sizes.values())


def _status(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None, f"process {pid} has ended"
    return int(match[1]) << 10
