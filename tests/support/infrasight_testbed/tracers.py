"""The BPF programs attached to tracepoints: those of others slow every system call."""

import ctypes
import os
import platform
import struct

_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_PROG_GET_NEXT_ID = 11
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15
_TRACEPOINTS = (5, 17)  # BPF_PROG_TYPE_TRACEPOINT and BPF_PROG_TYPE_RAW_TRACEPOINT
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    return int(_libc.syscall(_BPF, command, attributes, len(attributes)))


def tracepoint_programs() -> frozenset[int]:
    """The ids of all that are loaded on this machine."""
    found = set[int]()
    number = 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("=IIII", number, 0, 0, 0), 16)
        if _bpf(_PROG_GET_NEXT_ID, attributes) < 0:
            return frozenset(found)
        number = struct.unpack_from("=I", attributes.raw, 4)[0]
        if (
            fd := _bpf(
                _PROG_GET_FD_BY_ID,
                ctypes.create_string_buffer(struct.pack("=IIII", number, 0, 0, 0), 16),
            )
        ) < 0:
            continue  # gone meanwhile
        information = ctypes.create_string_buffer(8)
        asked = struct.pack("=IIQ", fd, len(information), ctypes.addressof(information))
        if _bpf(_OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(asked, 16)) == 0:
            kind, _ = struct.unpack("=II", information.raw)
            if kind in _TRACEPOINTS:
                found.add(number)
        os.close(fd)
