"""Denies system calls to this process and its children, by a filter in the kernel (seccomp).

A denied call fails with EPERM. So do calls of another ABI, such as 32-bit ones, whose numbers
differ, and the creation of a user namespace, in which a process would have every capability.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from infrasight_core.errors import KernelError

# By the name of each call: its numbers on x86-64 and arm64, None where there is no such call.
_DANGEROUS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_RECORDING: dict[str, tuple[int | None, int | None]] = {
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
}
_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "kill": (62, 129),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "tkill": (200, 130),
    "vfork": (58, None),
}
_NETWORK: dict[str, tuple[int | None, int | None]] = {
    "bind": (49, 200),
    "connect": (42, 203),
    "listen": (50, 201),
    "socket": (41, 198),
}
_ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "chown": (92, None),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchownat": (260, 54),
    "lchown": (94, None),
    "lsetxattr": (189, 6),
    "setxattr": (188, 5),
}
_NUMBERS = _DANGEROUS | _RECORDING | _PROCESSES | _NETWORK | _ATTRIBUTES
DANGEROUS_CALLS = tuple(_DANGEROUS)
"""What no process of the project needs: they change the machine or reach into other processes."""
RECORDING_CALLS = tuple(_RECORDING)
"""What only a process that loads probes needs."""
PROCESS_CALLS = tuple(_PROCESSES)
"""What starts programs and processes, or sends signals to other processes; see `deny_calls`."""
NETWORK_CALLS = tuple(_NETWORK)
"""What opens sockets; a process can still use those that it receives."""
ATTRIBUTE_CALLS = tuple(_ATTRIBUTES)
"""What changes a file's mode, owner or extended attributes by its path."""

# Per machine: the index in _NUMBERS, AUDIT_ARCH_…, and the numbers of seccomp, clone and clone3.
_MACHINES = {"x86_64": (0, 0xC000003E, 317, 56, 435), "aarch64": (1, 0xC00000B7, 277, 220, 435)}
_X32_CALL = 0x40000000
_CLONE_NEWUSER = 0x10000000
_CLONE_THREAD = 0x10000
_SECCOMP_SET_MODE_FILTER = 1
_ALL_THREADS = 1  # SECCOMP_FILTER_FLAG_TSYNC
_NO_SPECULATION_CONTROL = 4  # SECCOMP_FILTER_FLAG_SPEC_ALLOW; Linux 5.16 made it the default
# Instructions of classic BPF, and the offsets in `struct seccomp_data`.
_LOAD = 0x20
_RETURN = 0x06
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_ANY_BIT = 0x45
_CALL_OFFSET = 0
_ARCHITECTURE_OFFSET = 4
_FIRST_ARGUMENT_OFFSET = 16
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000  # plus the error's number


def deny_calls(names: Iterable[str], *, deny_processes: bool = False) -> None:
    """Denies system calls to all threads of this process, and to its children, for good.

    Args:
        names: The names of the calls.
        deny_processes: Whether `clone` starts threads only.

    Raises:
        KernelError: The kernel has no such filters, or the machine is unknown.
    """
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise KernelError(f"no system call filter for the architecture {machine}")
    instructions = filter_program(names, machine, deny_processes=deny_processes)
    code = ctypes.create_string_buffer(b"".join(instructions))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(instructions), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _ALL_THREADS | _NO_SPECULATION_CONTROL
    number = _MACHINES[machine][2]
    if libc.syscall(number, _SECCOMP_SET_MODE_FILTER, flags, program):
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(f"the kernel does not accept the system call filter: {reason}")


def filter_program(
    names: Iterable[str], machine: str, *, deny_processes: bool = False
) -> list[bytes]:
    """Returns the instructions of the filter that denies these calls, and allows all others."""
    index, architecture, _, clone, clone3 = _MACHINES[machine]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        *_unless(_JUMP_EQUAL, architecture, errno.EPERM),
        _instruction(_LOAD, _CALL_OFFSET),
    ]
    if machine == "x86_64":
        program += _if(_JUMP_GREATER_EQUAL, _X32_CALL, errno.EPERM)
    for name in sorted(names):
        number = _NUMBERS[name][index]
        if number is not None:
            program += _if(_JUMP_EQUAL, number, errno.EPERM)
    # A filter cannot read the flags of clone3, which are in memory. Without it libc uses clone.
    program += _if(_JUMP_EQUAL, clone3, errno.ENOSYS)
    checks = _if(_JUMP_ANY_BIT, _CLONE_NEWUSER, errno.EPERM)
    if deny_processes:
        checks += _unless(_JUMP_ANY_BIT, _CLONE_THREAD, errno.EPERM)
    program += [
        _instruction(_JUMP_EQUAL, clone, if_true=0, if_false=1 + len(checks)),
        _instruction(_LOAD, _FIRST_ARGUMENT_OFFSET),
        *checks,
        _instruction(_RETURN, _ALLOW),
    ]
    return program


def _if(jump: int, value: int, error: int) -> list[bytes]:
    """Fails with an error if the comparison with the loaded word holds."""
    return [_instruction(jump, value, 0, 1), _instruction(_RETURN, _FAIL | error)]


def _unless(jump: int, value: int, error: int) -> list[bytes]:
    """Fails with an error unless the comparison with the loaded word holds."""
    return [_instruction(jump, value, 1, 0), _instruction(_RETURN, _FAIL | error)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One `struct sock_filter`; the jumps skip so many instructions."""
    return struct.pack("@HBBI", code, if_true, if_false, value)
