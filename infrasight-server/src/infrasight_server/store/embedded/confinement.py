"""Confines the store's process: takes from it whatever its statements do not need.

A statement runs with the rights of the process that runs it, and ClickHouse can read and write
files, connect to servers and start programs. The process therefore gives up these rights before it
loads ClickHouse. Only then does every thread have the confinement, because threads inherit it from
the thread that starts them.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Iterable
from pathlib import Path

from infrasight_core.console.privileges import drop_capabilities, forbid_new_privileges
from infrasight_core.console.seccomp import (
    ATTRIBUTE_CALLS,
    DANGEROUS_CALLS,
    NETWORK_CALLS,
    PROCESS_CALLS,
    RECORDING_CALLS,
    deny_calls,
)
from infrasight_core.errors import KernelError

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_DENIED_CALLS = (
    *DANGEROUS_CALLS,
    *RECORDING_CALLS,
    *PROCESS_CALLS,
    *NETWORK_CALLS,
    *ATTRIBUTE_CALLS,  # landlock does not cover these
)
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
    drop_capabilities(())
    forbid_new_privileges()
    missing = []
    try:
        _restrict_files(data, readable)
    except OSError as error:
        missing.append(str(error.strerror))
    try:
        deny_calls(_DENIED_CALLS, deny_processes=True)
    except KernelError as error:
        missing.append(f"{error}: queries can connect to other machines")
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # last: a change of credentials clears it
    return missing


def _prefer_as_victim() -> None:
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(max(int(path.read_text()), _OOM_SCORE)))
    except OSError:  # no /proc; the confinement does not depend on it
        return


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
