"""Calls of the 32-bit ABI: how the kernel marks a task that is in one, and which of a probe's functions are for them."""

from collections.abc import Iterable, Iterator

from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.plugin.program import Tracepoint

# By `uname -m`: where the mark stands, and its bit. TS_COMPAT: arch/x86/include/asm/thread_info.h; TIF_32BIT: arch/arm64's.
MARKS = {
    "x86_64": ("task_struct.thread_info.status", 2),
    "aarch64": ("task_struct.thread_info.flags", 1 << 22),
}
SOCKETCALL = {"x86_64": 102}  # elsewhere each of its calls has a number of its own
NO_NUMBER = -2


def compat_defines(machine: str) -> dict[str, int]:
    """What call.bpf.h needs to know; nothing on a machine that has no such calls. Raises KernelError."""
    if machine not in MARKS:
        return {}
    member, mask = MARKS[machine]
    return {"COMPAT_OFFSET": kernel_offsets([member])[member], "COMPAT_MASK": mask}


def compat_numbers(point: Tracepoint, machine: str) -> tuple[int, ...]:
    """The numbers for which the guard calls the function."""
    return {"x86_64": point.compat, "aarch64": point.compat_arm}.get(machine, ())


def compat_slots(points: Iterable[Tracepoint], machine: str) -> Iterator[tuple[str, int, str]]:
    """Each slot of the guard that the points want: the array's name, the number, the function."""
    for point in points:
        side = "compat_exit" if point.event.startswith("syscalls:sys_exit_") else "compat_enter"
        for number in compat_numbers(point, machine):
            yield side, number, point.function
