"""The capabilities and other rights of a process's threads, as /proc shows them."""

from pathlib import Path

from infrasight_core.console.privileges import CAPABILITIES

NAMES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")


def rights(pid: int) -> set[tuple[str, ...]]:
    """The distinct values of `NAMES` among all threads of a process."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        found.add(tuple(status[name] for name in NAMES))
    return found


def restricted_to(*capabilities: str) -> tuple[str, ...]:
    """The values of `NAMES` in a thread that has restricted itself to these capabilities."""
    kept = _mask(*capabilities)
    return (_mask(), kept, kept, kept, _mask(), "1", "2")


def _mask(*capabilities: str) -> str:
    """A set of capabilities as /proc/PID/status shows it."""
    return f"{sum(1 << CAPABILITIES.index(name) for name in capabilities):016x}"
