"""Uses the BPF programs of other processes, as root can."""

import ctypes
import os

_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)


def program_descriptor(number: int) -> int:
    """Opens a program by its number; returns a descriptor."""
    descriptor = int(_lib.bpf_prog_get_fd_by_id(ctypes.c_uint32(number)))
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return descriptor


def link_to_tracepoint(program: int, event: str) -> int:
    """Attaches a program to a raw tracepoint; returns the descriptor of the link."""
    link = int(_lib.bpf_raw_tracepoint_open(event.encode(), program))
    assert link >= 0, os.strerror(ctypes.get_errno())
    return link
