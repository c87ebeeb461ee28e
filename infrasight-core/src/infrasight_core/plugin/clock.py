"""Reads the clocks with which `assemble` turns time since boot into wall-clock time."""

import time
from pathlib import Path

_FAST_ENOUGH_NS = 1000  # for reading the three clocks
_MOST_TRIES = 20


def boot_time_ns() -> int:
    """Returns when this machine was booted, in nanoseconds since the epoch.

    The kernel states it in whole seconds, and every process of this boot reads the same value.
    """
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime ")) * 10**9


def wall_clock_offset_ns() -> int:
    """Returns the nanoseconds to add to the time since boot to get the wall-clock time now.

    A thread that is interrupted between reading two clocks is milliseconds off, which would place
    a batch's events among later ones. The clock of the time since boot is therefore read before and
    after the wall clock, and the fastest of several tries counts.
    """
    tries: list[tuple[int, int]] = []
    while not tries or (len(tries) < _MOST_TRIES and tries[-1][0] > _FAST_ENOUGH_NS):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        tries.append((after - before, wall - (before + after) // 2))
    return min(tries)[1]
