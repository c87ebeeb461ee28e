"""Waits until no program of the kernel still uses what has just been changed."""

import ctypes
import os
import time

_SYSCALL_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1
_PROGRAM_SECONDS = 0.1  # longer than any program runs, which takes microseconds


def wait_for_programs() -> None:
    """Waits until every program that runs now has ended: for a grace period of RCU."""
    number = _SYSCALL_MEMBARRIER.get(os.uname().machine)
    has_waited = number and ctypes.CDLL(None).syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0) == 0
    if not has_waited:  # a kernel with nohz_full has no such barrier
        time.sleep(_PROGRAM_SECONDS)
