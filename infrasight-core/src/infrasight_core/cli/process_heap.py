"""Sets how the C library allocates this process's memory."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h


def share_one_heap() -> None:
    """Makes all threads allocate from one heap.

    By default glibc gives each thread its own heap, and what a thread frees there stays with
    the process: the threads that load the probes leave 12 MB each. Python's lock lets one thread
    run at a time, so that they hardly wait for each other. Other C libraries do not need it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
