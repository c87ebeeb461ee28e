"""The chart's seccomp profiles, and a program that runs a command under one as a runtime would.

    python seccomp_profile.py PROFILE COMMAND…

libseccomp makes the filter, as it does for runc and crun. The program imports only the standard
library, because it runs without the tests' paths.
"""

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROFILES = Path(__file__).parents[3] / "helm" / "infrasight" / "files" / "seccomp"
_PR_SET_NO_NEW_PRIVS = 38
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000  # plus the error's number
_COMPARISONS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_UNKNOWN = -1


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def read_profile(component: str) -> dict[str, Any]:
    """Reads the profile of `agent`, `server` or `operator`."""
    profile: dict[str, Any] = json.loads((PROFILES / f"{component}.json").read_text())
    return profile


def launcher(component: str) -> tuple[str, ...]:
    """The beginning of a command that runs under a component's profile."""
    return (sys.executable, __file__, str(PROFILES / f"{component}.json"))


def call_number(name: str) -> int | None:
    """The number of a system call on this machine, negative if it lacks the call; None: unknown."""
    number: int = _libseccomp().seccomp_syscall_resolve_name(name.encode())
    return None if number == _UNKNOWN else number


def load(profile: dict[str, Any]) -> None:
    """Restricts this process, and what it executes, to a profile."""
    library = _libseccomp()
    context = library.seccomp_init(_action(profile["defaultAction"], profile["defaultErrnoRet"]))
    if not context:
        raise OSError("seccomp_init failed")
    for rule in profile["syscalls"]:
        comparisons = list(_comparisons(rule.get("args", ())))
        array = (_Comparison * len(comparisons))(*comparisons)
        action = _action(rule["action"], 0)
        for name in rule["names"]:
            number = call_number(name)
            if number is not None:  # runtimes, too, ignore what their libseccomp does not know
                _check(
                    library.seccomp_rule_add_array(
                        context, action, number, len(comparisons), array
                    ),
                    name,
                )
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _check(library.seccomp_load(context), "seccomp_load")


def _comparisons(arguments: list[dict[str, Any]]) -> Iterator[_Comparison]:
    for argument in arguments:
        operator = _COMPARISONS[argument["op"]]
        yield _Comparison(
            argument["index"], operator, argument["value"], argument.get("valueTwo", 0)
        )


def _action(name: str, error: int) -> int:
    return {"SCMP_ACT_ALLOW": _ALLOW, "SCMP_ACT_ERRNO": _FAIL | error}[name]


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


def _libseccomp() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    return library


if __name__ == "__main__":
    load(json.loads(Path(sys.argv[1]).read_text()))
    os.execvp(sys.argv[2], sys.argv[2:])
