"""Uses the BPF programs of other processes, as root can."""

import ctypes
import os
import struct
from pathlib import Path

from infrasight_core.kernel.attach_points import TRACEFS

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_TYPE_TRACEPOINT = 2
_ATTRIBUTE_BYTES = 64
_BPF_PERF_EVENT = 41
_EVERY_PROCESS = -1
_NO_GROUP = -1
_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)


def program_descriptor(number: int) -> int:
    """Opens a program by its number; returns a descriptor."""
    descriptor = int(_lib.bpf_prog_get_fd_by_id(ctypes.c_uint32(number)))
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return descriptor


def link_to_tracepoint(program: int, event: str) -> int:
    """Attaches a program to a tracepoint on the first CPU; returns the descriptor of the link."""
    folder = next(Path(folder) for folder in TRACEFS if Path(folder, "events").is_dir())
    number = int((folder / "events" / event.replace(":", "/") / "id").read_text())
    attribute = struct.pack("<IIQ", _TYPE_TRACEPOINT, _ATTRIBUTE_BYTES, number)
    buffer = ctypes.create_string_buffer(attribute, _ATTRIBUTE_BYTES)
    call = _PERF_EVENT_OPEN[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    perf_event = libc.syscall(call, buffer, _EVERY_PROCESS, 0, _NO_GROUP, 0)
    assert perf_event >= 0, os.strerror(ctypes.get_errno())
    link = int(_lib.bpf_link_create(program, perf_event, _BPF_PERF_EVENT, None))
    assert link >= 0, os.strerror(ctypes.get_errno())
    os.close(perf_event)
    return link
