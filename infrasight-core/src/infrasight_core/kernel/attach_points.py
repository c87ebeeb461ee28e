"""Compares a program's attach points with the tracepoints that this kernel has."""

import re
from pathlib import Path

import structlog

from infrasight_core.errors import KernelError
from infrasight_core.plugin.program import BpfProgram, KernelFunction, SystemCall, Tracepoint

log = structlog.get_logger(__name__)
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_MEMBER = re.compile(r"field:.*?(\w+);\toffset:(\d+);")


def calls_of(program: BpfProgram) -> list[SystemCall]:
    """Returns the system calls among a program's attach points."""
    return [point for point in program.attach if isinstance(point, SystemCall)]


def tracepoints_of(program: BpfProgram) -> list[Tracepoint]:
    """Returns the tracepoints among a program's attach points."""
    return [point for point in program.attach if isinstance(point, Tracepoint)]


def functions_of(program: BpfProgram) -> list[KernelFunction]:
    """Returns the kernel functions among a program's attach points."""
    return [point for point in program.attach if isinstance(point, KernelFunction)]


def function_names(program: BpfProgram) -> tuple[str, ...]:
    """Returns the names of the functions that a program attaches."""
    names = [point.function for point in tracepoints_of(program)]
    names += [point.function for point in functions_of(program)]
    for call in calls_of(program):
        names += filter(None, (call.enter, call.exit))
    return tuple(names)


def tracefs_is_mounted() -> bool:
    """Whether tracefs is mounted. A directory that this user may not read counts as mounted."""
    for folder in TRACEFS:
        try:
            if Path(folder, "events").is_dir():
                return True
        except PermissionError:
            return True
    return False


def has_tracepoint(event: str) -> bool:
    """Whether the kernel has the tracepoint `category:name`.

    Raises:
        KernelError: This user may not read tracefs.
    """
    return _tracepoint_folder(event) is not None


def id_of(event: str) -> int:
    """Returns the kernel's number for the tracepoint `category:name`.

    Raises:
        KernelError: There is none, or this user may not read tracefs.
    """
    folder = _tracepoint_folder(event)
    if folder is None:
        raise KernelError(f"this kernel has no tracepoint {event}")
    try:
        return int((folder / "id").read_text())
    except OSError as error:
        raise KernelError(f"cannot read {folder / 'id'}: {error.strerror}") from error


def _tracepoint_folder(event: str) -> Path | None:
    """Returns the folder of a tracepoint in tracefs, None if there is none. Raises KernelError."""
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


def missing_tracepoints(program: BpfProgram) -> list[str]:
    """Returns the optional tracepoints that this kernel lacks and that nothing replaces.

    A tracepoint is replaced if its function is attached to another one: the tracepoint was renamed.
    """
    points = tracepoints_of(program)
    attached = {point.function for point in points if has_tracepoint(point.event)}
    return [
        point.event
        for point in points
        if point.optional and not has_tracepoint(point.event) and point.function not in attached
    ]


def available_tracepoints(probe: str, program: BpfProgram) -> list[Tracepoint]:
    """Returns the tracepoints of a program that can be used on this kernel.

    Optional tracepoints that it lacks are logged and left out.

    Raises:
        KernelError: A tracepoint's members are not at the offsets that the C assumes.
    """
    available = []
    for point in tracepoints_of(program):
        _check_members(point)
        if point.optional and not has_tracepoint(point.event):
            log.info("this kernel has no such tracepoint", probe=probe, tracepoint=point.event)
        else:
            available.append(point)
    return available


def _check_members(point: Tracepoint) -> None:
    if not point.members:
        return
    folder = _tracepoint_folder(point.event)
    if folder is None:
        return
    text = (folder / "format").read_text()
    offsets = {name: int(offset) for name, offset in _MEMBER.findall(text)}
    for name, expected in point.members.items():
        if offsets.get(name) != expected:
            raise KernelError(
                f"{point.event}: {name!r} is at {offsets.get(name)} in this kernel, "
                f"not at {expected}: please report"
            )
