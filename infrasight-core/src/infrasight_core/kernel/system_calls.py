"""System calls: their numbers in each ABI, and their slots in the dispatcher's arrays.

The numbers are in `system_calls.csv`: those of Linux's uapi headers, for the 64-bit ABIs of x86 and
arm and for the 32-bit ABIs of both.
"""

import csv
from functools import cache
from importlib import resources

from infrasight_core.errors import KernelError
from infrasight_core.kernel.btf import kernel_offsets

# A kernel with these has the raw tracepoints, which tracefs does not list.
TRACEPOINTS = ("raw_syscalls:sys_enter", "raw_syscalls:sys_exit")
# By `uname -m`: the ABI of 32-bit programs, as a column of the table.
_COMPAT_ABI = {"x86_64": "i386", "aarch64": "arm"}
# By `uname -m`: the field that marks a task in a call of the 32-bit ABI, and the mark's bit.
# TS_COMPAT: arch/x86/include/asm/thread_info.h; TIF_32BIT: arch/arm64/include/asm/thread_info.h.
_COMPAT_MARKS = {
    "x86_64": ("task_struct.thread_info.status", 2),
    "aarch64": ("task_struct.thread_info.flags", 1 << 22),
}
# The calls inside i386's socketcall(2), by their number there: include/uapi/linux/net.h.
_SOCKETCALLS = (
    "",
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
)
# As in call.bpf.h: a slot for each number of a 64-bit call, then for each number of a 32-bit call,
# then for each call inside socketcall(2).
_CALLS = 512


def compat_defines(machine: str) -> dict[str, int]:
    """Returns the macros by which call.bpf.h recognizes 32-bit calls; none if there are none.

    Raises:
        KernelError: The kernel's BTF does not tell where the mark is.
    """
    if machine not in _COMPAT_MARKS:
        return {}
    name, mask = _COMPAT_MARKS[machine]
    offsets = kernel_offsets([name])
    if name in offsets.missing:
        raise KernelError(f"kernel field {name}: {offsets.missing[name]}")
    defines = {"COMPAT_OFFSET": offsets.found[name], "COMPAT_MASK": mask}
    socketcall = _numbers("socketcall").get(_COMPAT_ABI[machine])
    return defines if socketcall is None else defines | {"SOCKETCALL": socketcall}


def slots_of(name: str, machine: str) -> list[int]:
    """Returns the dispatcher's slots of a call, one for each way in which it is made.

    Args:
        name: The call's name, as in `man 2 name`.
        machine: `uname -m`.

    Returns:
        No slot if the machine does not have the call.

    Raises:
        KernelError: No machine has such a call.
    """
    numbers = _numbers(name)
    if not numbers and name not in _SOCKETCALLS[1:]:
        raise KernelError(f"there is no system call {name!r}")
    compat_abi = _COMPAT_ABI.get(machine, "")
    slots = []
    if machine in numbers:
        slots.append(numbers[machine])
    if compat_abi in numbers:
        slots.append(_CALLS + numbers[compat_abi])
    if compat_abi == "i386" and name in _SOCKETCALLS[1:]:
        slots.append(2 * _CALLS + _SOCKETCALLS.index(name))
    return slots


def number_of(slot: int, machine: str) -> int:
    """Returns the number that the calls of a slot have, in whatever ABI."""
    if slot >= 2 * _CALLS:
        return _numbers("socketcall")[_COMPAT_ABI[machine]]
    return slot % _CALLS


def has_compat_call(name: str, machine: str) -> bool:
    """Whether 32-bit programs on this machine can make a call."""
    try:
        return any(slot >= _CALLS for slot in slots_of(name, machine))
    except KernelError:
        return False


def _numbers(name: str) -> dict[str, int]:
    """A call's number in each ABI that has it; empty for an unknown call."""
    return _table().get(name, {})


@cache
def _table() -> dict[str, dict[str, int]]:
    file = resources.files("infrasight_core") / "kernel" / "system_calls.csv"
    rows = csv.DictReader(file.read_text(encoding="ascii").splitlines())
    return {
        row.pop("name"): {abi: int(number) for abi, number in row.items() if number} for row in rows
    }
