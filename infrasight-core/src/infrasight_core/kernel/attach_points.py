"""Where a program's functions hang: what this kernel has of it."""

import re
from pathlib import Path

import structlog

from infrasight_core.errors import KernelError
from infrasight_core.kernel.compat import compat_numbers
from infrasight_core.plugin.program import BpfProgram, Kernel, KernelFunction, Tracepoint

log = structlog.get_logger(__name__)
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_MEMBER = re.compile(r"field:.*?(\w+);\toffset:(\d+);")


def tracepoints_of(program: BpfProgram) -> list[Tracepoint]:
    """The tracepoints that a program wants."""
    return [point for point in program.attach if isinstance(point, Tracepoint)]


def functions_of(program: BpfProgram) -> list[KernelFunction]:
    """The kernel's functions that a program wants."""
    return [point for point in program.attach if isinstance(point, KernelFunction)]


def tracefs_is_mounted() -> bool:
    """Whether tracefs is mounted where this user can see it; a directory out of reach may be it."""
    for folder in TRACEFS:
        try:
            if Path(folder, "events").is_dir():
                return True
        except PermissionError:
            return True
    return False


def has_tracepoint(event: str) -> bool:
    """Whether tracefs lists the tracepoint `category:name`. Raises KernelError."""
    return _tracepoint_folder(event) is not None


def _tracepoint_folder(event: str) -> Path | None:
    """The folder of a tracepoint in tracefs; None if there is none.

    Raises:
        KernelError: This user may not read tracefs.
    """
    denied = None
    for folder in TRACEFS:
        path = Path(folder, "events", *event.split(":"))
        try:
            if path.is_dir():
                return path
            if path.parents[1].is_dir():
                return None
        except PermissionError:
            denied = folder
    if denied is not None:
        raise KernelError(f"cannot read {denied}: run as root (sudo), or see `infrasight doctor`")
    return None


def lacking(program: BpfProgram) -> list[str]:
    """The optional tracepoints that this kernel does not have, but for those whose function hangs on another one of the kind: a
    tracepoint that has been renamed, or a call's exit where only its entry tells calls apart."""
    points = tracepoints_of(program)
    in_use = {point.function for point in points if has_tracepoint(point.event)}
    return [
        point.event
        for point in points
        if point.optional and not has_tracepoint(point.event) and point.function not in in_use
    ]


def present(
    probe: str, program: BpfProgram, kernel: Kernel
) -> tuple[Tracepoint | KernelFunction, ...]:
    """The attach points without the optional tracepoints that this kernel does not have, unless 32-bit calls pass them.

    Raises:
        KernelError: A tracepoint's members do not stand where the C takes them to stand.
    """
    absent = [
        point
        for point in tracepoints_of(program)
        if point.optional and not has_tracepoint(point.event)
    ]
    absent = [point for point in absent if not compat_numbers(point, kernel.machine)]
    for point in absent:
        log.info("this kernel has no such tracepoint", probe=probe, tracepoint=point.event)
    for point in tracepoints_of(program):
        _check_members(point)
    return tuple(point for point in program.attach if point not in absent)


def _check_members(point: Tracepoint) -> None:
    folder = _tracepoint_folder(point.event) if point.members else None
    if folder is not None:
        text = (folder / "format").read_text()
        found = {name: int(at) for name, at in _MEMBER.findall(text)}
        for name, at in point.members.items():
            if found.get(name) != at:
                raise KernelError(
                    f"{point.event}: {name!r} is at {found.get(name)} in this kernel, not at {at}: please report"
                )
