"""Confines the store's process: takes from it whatever its statements do not need.

A statement runs with the rights of the process that runs it, and ClickHouse can read and write
files, connect to servers and start programs. The process therefore gives up these rights before it
loads ClickHouse. Only then does every thread have the confinement, because threads inherit it from
the thread that starts them.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITIES = 64
_CAPABILITY_VERSION = 0x20080522
_OOM_SCORE = 500
"""The kernel ends this process before the server when memory runs out: the store's data is on disk,
and the server inserts again what was not confirmed."""


def confine(data: Path, readable: Iterable[Path]) -> list[str]:
    """Confines the calling process, which must have one thread only.

    Args:
        data: The folder that it may read and write.
        readable: The files and folders that it may read; missing ones are ignored.

    Returns:
        What the kernel does not support, each as a sentence without a period; empty when the
        confinement is complete.
    """
    _prefer_as_victim()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    missing = []
    try:
        _restrict_files(data, readable)
    except OSError as error:
        missing.append(str(error.strerror))
    try:
        _restrict_calls()
    except OSError as error:
        missing.append(str(error.strerror))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # last: a change of credentials clears it
    return missing


def _prefer_as_victim() -> None:
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(max(int(path.read_text()), _OOM_SCORE)))
    except OSError:  # no /proc; the confinement does not depend on it
        return


# --- capabilities ---


def _drop_capabilities() -> None:
    for capability in range(_CAPABILITIES):
        # Fails beyond the last capability, and for a process that has none anyway.
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _check(_LIBC.capset(header, bytes(2 * 3 * 4)), "cannot drop capabilities")


# --- files: landlock ---

_LANDLOCK_CREATE_RULESET = 444  # the same numbers on every architecture
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_OLDEST_ABI = 2
"""ABI 1 forbids moving a file to another folder, which ClickHouse does."""

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REMOVE_DIR = 1 << 4
_REMOVE_FILE = 1 << 5
_MAKE_DIR = 1 << 7
_MAKE_REG = 1 << 8
_MAKE_SYM = 1 << 12
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_DATA = (
    _WRITE_FILE
    | _READ_FILE
    | _READ_DIR
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_SYM
    | _REFER
    | _TRUNCATE
)
_READ = _READ_FILE | _READ_DIR
_FILE_RIGHTS = _READ_FILE | _WRITE_FILE | _TRUNCATE
"""The rights that a rule on a file, not on a folder, can give."""

_ALL_NETWORK = 0b11  # bind and connect TCP sockets
_ALL_SCOPES = 0b11  # abstract Unix sockets and signals


def _restrict_files(data: Path, readable: Iterable[Path]) -> None:
    abi = _LIBC.syscall(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if abi < _OLDEST_ABI:
        reason = "is older than 5.19" if abi == 1 else "has no landlock or does not enable it"
        raise OSError(errno.ENOSYS, f"the kernel {reason}: queries can read the server's files")
    handled = _handled_files(abi)
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", _ALL_NETWORK)
    if abi >= 6:
        attributes += struct.pack("=Q", _ALL_SCOPES)
    ruleset = _check(
        _LIBC.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0),
        "landlock is not usable: queries can read the server's files",
    )
    try:
        _allow(ruleset, data, _DATA & handled)
        for path in readable:
            if path.exists():
                _allow(ruleset, path, _READ)
        _check(
            _LIBC.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0),
            "landlock is not usable: queries can read the server's files",
        )
    finally:
        os.close(ruleset)


def _handled_files(abi: int) -> int:
    """Returns every right that the kernel's landlock knows; what no rule gives is forbidden."""
    bits = {2: 14, 3: 15, 4: 15}.get(abi, 16)
    return (1 << bits) - 1


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, descriptor)
        _check(
            _LIBC.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0),
            f"cannot confine the store to {path}",
        )
    finally:
        os.close(descriptor)


# --- system calls: seccomp ---

_FORBIDDEN_CALLS = {
    # programs and other processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    # the network: the process answers on the sockets that it receives
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    # what evades this filter or has its own rights
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    # changes of files that landlock does not cover
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
}
"""The numbers of the forbidden system calls on x86-64 and on arm64."""

_CLONE = (56, 220)
_CLONE3 = (435, 435)
_CLONE_THREAD = 0x10000
_X32_BIT = 0x40000000
_AUDIT_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_OFFSET_NUMBER = 0  # of the fields of `struct seccomp_data`
_OFFSET_ARCHITECTURE = 4
_OFFSET_FIRST_ARGUMENT = 16
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_ANY_BIT = 0x45
_RETURN = 0x06
_ALLOW_CALL = 0x7FFF0000
_FAIL_CALL = 0x00050000
_KILL_PROCESS = 0x80000000


class _Filter(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _restrict_calls() -> None:
    machine = platform.machine()
    if machine not in _AUDIT_ARCHITECTURES:
        raise OSError(
            errno.ENOSYS, f"there is no list of system calls for {machine}: queries can connect"
        )
    column, architecture = _AUDIT_ARCHITECTURES[machine]
    instructions = b"".join(_filter(column, architecture))
    program = _Filter(len(instructions) // 8, instructions)
    _check(
        _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
        "the kernel has no seccomp filters: queries can connect",
    )


def _filter(column: int, architecture: int) -> Iterable[bytes]:
    """Yields the instructions of the filter, which forbids some calls and permits all others."""
    forbid = _instruction(_RETURN, _FAIL_CALL | errno.EPERM)
    yield _instruction(_LOAD, _OFFSET_ARCHITECTURE)
    yield _instruction(_JUMP_IF_EQUAL, architecture, if_true=1)
    yield _instruction(_RETURN, _KILL_PROCESS)
    yield _instruction(_LOAD, _OFFSET_NUMBER)
    yield _instruction(_JUMP_IF_ANY_BIT, _X32_BIT, if_false=1)
    yield forbid
    for numbers in _FORBIDDEN_CALLS.values():
        number = numbers[column]
        if number is not None:
            yield _instruction(_JUMP_IF_EQUAL, number, if_false=1)
            yield forbid
    # The flags of clone3 are in memory, out of the filter's sight; libc then uses clone.
    yield _instruction(_JUMP_IF_EQUAL, _CLONE3[column], if_false=1)
    yield _instruction(_RETURN, _FAIL_CALL | errno.ENOSYS)
    yield _instruction(_JUMP_IF_EQUAL, _CLONE[column], if_false=3)
    yield _instruction(_LOAD, _OFFSET_FIRST_ARGUMENT)
    yield _instruction(_JUMP_IF_ANY_BIT, _CLONE_THREAD, if_true=1)
    yield forbid
    yield _instruction(_RETURN, _ALLOW_CALL)


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


# --- libc ---

_LIBC = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    _check(_LIBC.prctl(option, value, 0, 0, 0), f"prctl({option}) failed")


def _check(result: int, message: str) -> int:
    """Returns the result of a call. Raises OSError with the message if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{message} ({os.strerror(number)})")
    return result
