"""Reads how often the kernel skipped a loaded program: bpf(2)."""

import ctypes
import os
import struct
from collections.abc import Iterable

from infrasight_core.errors import KernelError

_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
_OBJ_GET_INFO_BY_FD = 15
# In struct bpf_prog_info of include/uapi/linux/bpf.h.
_INFO_BYTES = 256
_RECURSION_MISSES_OFFSET = 208
_libc = ctypes.CDLL(None, use_errno=True)


def skipped_runs(programs: Iterable[int]) -> int:
    """Counts the runs that the kernel skipped because another program was running on that CPU.

    Args:
        programs: The programs' descriptors.

    Raises:
        KernelError: A descriptor is not a program's.
    """
    info = ctypes.create_string_buffer(_INFO_BYTES)
    return sum(_recursion_misses(program, info) for program in programs)


def _recursion_misses(program: int, info: "ctypes.Array[ctypes.c_char]") -> int:
    ctypes.memset(info, 0, _INFO_BYTES)  # members that the kernel does not have stay 0
    attributes = ctypes.create_string_buffer(
        struct.pack("<IIQ", program, _INFO_BYTES, ctypes.addressof(info)), 16
    )
    if _libc.syscall(_SYSCALL_BPF[os.uname().machine], _OBJ_GET_INFO_BY_FD, attributes, 16):
        raise KernelError(f"program {program}: {os.strerror(ctypes.get_errno())}")
    misses: int = struct.unpack_from("<Q", info, _RECURSION_MISSES_OFFSET)[0]
    return misses
