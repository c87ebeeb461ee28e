"""Lists the machine's BPF programs with their run statistics: their number of runs, and the time.

The kernel counts runs only while someone has asked for it (`counting_runs`). What a program calls
by a tail call counts as part of the caller's run.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import field, frozen

from infrasight_core.errors import KernelError
from infrasight_core.kernel.prog_info import INFO_BYTES, bpf, read_info

# Commands of bpf(2), and its only kind of statistics, of include/uapi/linux/bpf.h.
_PROG_GET_NEXT_ID = 11
_PROG_GET_FD_BY_ID = 13
_MAP_GET_FD_BY_ID = 14
_ENABLE_STATS = 32
_STATS_RUN_TIME = 0
# In struct bpf_prog_info and struct bpf_map_info.
_MAP_COUNT_OFFSET = 52
_PROGRAM_NAME_OFFSET = 64
_RUNS_OFFSET = 192
_MAP_NAME_OFFSET = 24
_NAME_BYTES = 16
_MOST_MAPS = 64  # that the verifier lets a program use
_PROGRAM_ARRAY = 3
_ROOT_ONLY = "only root (CAP_SYS_ADMIN) may read the machine's BPF programs: use sudo"


@frozen
class MapInfo:
    """A map that a program uses.

    Attributes:
        number: The kernel's number for it.
        name: The first 15 bytes of its name.
        is_program_array: Whether it holds programs, for tail calls.
    """

    number: int
    name: str
    is_program_array: bool


@frozen
class ProgramInfo:
    """A loaded program.

    Attributes:
        number: The kernel's number for it.
        name: The first 15 bytes of its function's name.
        maps: The numbers of the maps that it uses.
        runs: How often it has run while runs were counted.
        run_time_ns: How long these runs took.
    """

    number: int
    name: str
    maps: tuple[int, ...] = field(factory=tuple)
    runs: int = 0
    run_time_ns: int = 0


@contextmanager
def counting_runs() -> Iterator[None]:
    """Makes the kernel count the runs of all programs for as long as the context lasts.

    It stops as well when this process ends in any other way.

    Raises:
        KernelError: This process may not ask for it, or the kernel cannot count.
    """
    try:
        descriptor = bpf(_ENABLE_STATS, bytearray(struct.pack("<I", _STATS_RUN_TIME)))
    except PermissionError as error:
        raise KernelError(_ROOT_ONLY) from error
    except OSError as error:
        raise KernelError(f"the kernel cannot count runs of programs: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)


def list_programs() -> list[ProgramInfo]:
    """Returns every program of the machine that is loaded now.

    Raises:
        KernelError: This process may not ask.
    """
    programs = []
    for number in _program_numbers():
        descriptor = _open(_PROG_GET_FD_BY_ID, number)
        if descriptor is None:
            continue
        try:
            programs.append(_program(descriptor, number))
        finally:
            os.close(descriptor)
    return programs


def map_info(number: int) -> MapInfo | None:
    """Returns a map by its number; None if it does not exist any more.

    Raises:
        KernelError: This process may not ask.
    """
    descriptor = _open(_MAP_GET_FD_BY_ID, number)
    if descriptor is None:
        return None
    try:
        info = ctypes.create_string_buffer(INFO_BYTES)
        read_info(descriptor, info)
    finally:
        os.close(descriptor)
    (kind,) = struct.unpack_from("<I", info)
    return MapInfo(number, _name(info, _MAP_NAME_OFFSET), kind == _PROGRAM_ARRAY)


def _program_numbers() -> Iterator[int]:
    number = 0
    while True:
        attributes = bytearray(struct.pack("<III", number, 0, 0))
        try:
            bpf(_PROG_GET_NEXT_ID, attributes)
        except PermissionError as error:
            raise KernelError(_ROOT_ONLY) from error
        except OSError as error:
            if error.errno == errno.ENOENT:  # there is no further one
                return
            raise KernelError(f"cannot list BPF programs: {error.strerror}") from error
        (number,) = struct.unpack_from("<I", attributes, 4)
        yield number


def _open(command: int, number: int) -> int | None:
    """Returns a descriptor of a program or map; None if it does not exist any more."""
    try:
        return bpf(command, bytearray(struct.pack("<III", number, 0, 0)))
    except PermissionError as error:
        raise KernelError(_ROOT_ONLY) from error
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise KernelError(f"cannot open BPF object {number}: {error.strerror}") from error


def _program(descriptor: int, number: int) -> ProgramInfo:
    maps = (ctypes.c_uint32 * _MOST_MAPS)()
    info = ctypes.create_string_buffer(INFO_BYTES)
    struct.pack_into("<IQ", info, _MAP_COUNT_OFFSET, _MOST_MAPS, ctypes.addressof(maps))
    read_info(descriptor, info)
    (used,) = struct.unpack_from("<I", info, _MAP_COUNT_OFFSET)
    run_time_ns, runs = struct.unpack_from("<QQ", info, _RUNS_OFFSET)
    name = _name(info, _PROGRAM_NAME_OFFSET)
    return ProgramInfo(number, name, tuple(maps[:used]), runs, run_time_ns)


def _name(info: "ctypes.Array[ctypes.c_char]", offset: int) -> str:
    raw = info.raw[offset : offset + _NAME_BYTES]
    return raw.partition(b"\0")[0].decode("ascii", "backslashreplace")
