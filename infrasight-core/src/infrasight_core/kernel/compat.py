"""Calls of the 32-bit ABI: how the kernel marks a task in one, and which programs want them."""

from collections.abc import Iterable, Iterator

from infrasight_core.errors import KernelError
from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.plugin.program import Tracepoint

# By `uname -m`: the field that holds the mark, and the mark's bit.
# TS_COMPAT: arch/x86/include/asm/thread_info.h; TIF_32BIT: arch/arm64/include/asm/thread_info.h.
MARKS = {
    "x86_64": ("task_struct.thread_info.status", 2),
    "aarch64": ("task_struct.thread_info.flags", 1 << 22),
}
SOCKETCALL = {"x86_64": 102}  # on other machines each of its calls has its own number
NO_NUMBER = -2


def compat_defines(machine: str) -> dict[str, int]:
    """Returns the macros that call.bpf.h needs; none on a machine without such calls.

    Raises:
        KernelError: The kernel's BTF does not tell where the mark is.
    """
    if machine not in MARKS:
        return {}
    name, mask = MARKS[machine]
    offsets = kernel_offsets([name])
    if name in offsets.missing:
        raise KernelError(f"kernel field {name}: {offsets.missing[name]}")
    return {"COMPAT_OFFSET": offsets.found[name], "COMPAT_MASK": mask}


def compat_numbers(point: Tracepoint, machine: str) -> tuple[int, ...]:
    """Returns the numbers of the calls that the guard forwards to the point's program."""
    return {"x86_64": point.compat, "aarch64": point.compat_arm}.get(machine, ())


def compat_slots(points: Iterable[Tracepoint], machine: str) -> Iterator[tuple[str, int, str]]:
    """Yields each slot of the guard that the points want: the array, the number, the function."""
    for point in points:
        side = "compat_exit" if point.event.startswith("syscalls:sys_exit_") else "compat_enter"
        for number in compat_numbers(point, machine):
            yield side, number, point.function
