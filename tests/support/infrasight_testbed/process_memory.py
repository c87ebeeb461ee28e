"""Measures the memory of another process at its peak."""

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


def _status(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None, f"process {pid} has ended"
    return int(match[1]) << 10
