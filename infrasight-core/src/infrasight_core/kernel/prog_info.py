"""Asks the kernel about programs, maps and attachments: bpf(2), and ioctl(2) of perf events."""

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterable

from attrs import frozen

from infrasight_core.errors import KernelError

_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
_OBJ_GET_INFO_BY_FD = 15
# In struct bpf_prog_info, the largest of the three, of include/uapi/linux/bpf.h.
INFO_BYTES = 256
_ID_OFFSET = 4
_RECURSION_MISSES_OFFSET = 208
_MAP_SIZES_OFFSET = 8  # in struct bpf_map_info
# PERF_EVENT_IOC_QUERY_BPF of include/uapi/linux/perf_event.h, and the most programs that the kernel
# lets attach to one tracepoint (BPF_TRACE_MAX_PROGS).
_QUERY_BPF = 0xC008240A
_MOST_PROGRAMS = 64
_libc = ctypes.CDLL(None, use_errno=True)


@frozen
class MapShape:
    """The sizes of a map.

    Attributes:
        key_bytes: The size of a key.
        value_bytes: The size of a value.
        most_entries: How many entries the map has room for.
    """

    key_bytes: int
    value_bytes: int
    most_entries: int


@frozen
class Attachment:
    """An attachment of a program to a tracepoint.

    Attributes:
        event: The tracepoint.
        program: The descriptor of the program.
        descriptor: The descriptor of the attachment, a perf event.
    """

    event: str
    program: int
    descriptor: int


@frozen
class Link:
    """An attachment of a program to a kernel function or a raw tracepoint.

    Attributes:
        kind: The kind of attachment.
        number: Its number, which the kernel does not use again soon.
        program: The number of the program.
    """

    kind: int
    number: int
    program: int


def skipped_runs(programs: Iterable[int]) -> int:
    """Counts the runs that the kernel skipped because another program was running on that CPU.

    Args:
        programs: The programs' descriptors.

    Raises:
        KernelError: A descriptor is not a program's.
    """
    info = ctypes.create_string_buffer(INFO_BYTES)
    misses = 0
    for program in programs:
        _read_info(program, info)
        misses += struct.unpack_from("<Q", info, _RECURSION_MISSES_OFFSET)[0]
    return misses


def program_id(program: int) -> int:
    """Returns the kernel's number for a program.

    Raises:
        KernelError: The descriptor is not a program's.
    """
    info = ctypes.create_string_buffer(INFO_BYTES)
    _read_info(program, info)
    number: int = struct.unpack_from("<I", info, _ID_OFFSET)[0]
    return number


def map_shape(descriptor: int) -> MapShape:
    """Returns the sizes of a map.

    Raises:
        KernelError: The descriptor is not a map's.
    """
    info = ctypes.create_string_buffer(INFO_BYTES)
    _read_info(descriptor, info)
    return MapShape(*struct.unpack_from("<3I", info, _MAP_SIZES_OFFSET))


def link_of(descriptor: int) -> Link:
    """Returns what a descriptor attaches to a kernel function or a raw tracepoint.

    Raises:
        KernelError: The descriptor is not that of an attachment.
    """
    info = ctypes.create_string_buffer(INFO_BYTES)
    _read_info(descriptor, info)
    return Link(*struct.unpack_from("<3I", info))


def is_attached(link: Link, descriptor: int) -> bool:
    """Returns whether a descriptor is still that of an attachment."""
    try:
        return link_of(descriptor) == link
    except KernelError:
        return False


def detached_events(attachments: Iterable[Attachment]) -> list[str]:
    """Returns the tracepoints from which the kernel has detached a program.

    Empty if this process may not ask the kernel.
    """
    detached = []
    for attachment in attachments:
        try:
            attached = attached_programs(attachment.descriptor)
            is_among_them = program_id(attachment.program) in attached
        except PermissionError:
            return []
        except KernelError:
            is_among_them = False
        if not is_among_them:
            detached.append(attachment.event)
    return detached


def attached_programs(attachment: int) -> list[int]:
    """Returns the kernel's numbers of the programs that are attached to a tracepoint.

    Args:
        attachment: The descriptor of one attachment to it, a perf event.

    Raises:
        KernelError: The descriptor is not that of an attachment.
        PermissionError: This process may not ask; it needs CAP_PERFMON.
    """
    query = bytearray(struct.pack(f"<II{_MOST_PROGRAMS}I", _MOST_PROGRAMS, *[0] * 65))
    try:
        fcntl.ioctl(attachment, _QUERY_BPF, query)
    except PermissionError:
        raise
    except OSError as error:
        raise KernelError(f"attachment {attachment}: {error.strerror}") from error
    (count,) = struct.unpack_from("<I", query, 4)
    return list(struct.unpack_from(f"<{min(count, _MOST_PROGRAMS)}I", query, 8))


def read_info(descriptor: int, info: "ctypes.Array[ctypes.c_char]") -> None:
    """Lets the kernel fill in a structure about a program, map or link.

    Args:
        descriptor: The descriptor of the object.
        info: The structure, of `INFO_BYTES`. Members that ask for more are set, others are 0.

    Raises:
        KernelError: The descriptor is not that of such an object.
    """
    attributes = bytearray(struct.pack("<IIQ", descriptor, INFO_BYTES, ctypes.addressof(info)))
    try:
        bpf(_OBJ_GET_INFO_BY_FD, attributes)
    except OSError as error:
        raise KernelError(f"descriptor {descriptor}: {error.strerror}") from error


def bpf(command: int, attributes: bytearray) -> int:
    """Calls bpf(2).

    Args:
        command: What to do, as numbered in include/uapi/linux/bpf.h.
        attributes: The arguments, which the kernel may change.

    Returns:
        The call's result, for some commands a new descriptor.

    Raises:
        OSError: The call failed.
    """
    number = _SYSCALL_BPF[os.uname().machine]
    size = len(attributes)
    result: int = _libc.syscall(
        number, command, (ctypes.c_char * size).from_buffer(attributes), size
    )
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _read_info(descriptor: int, info: "ctypes.Array[ctypes.c_char]") -> None:
    ctypes.memset(info, 0, INFO_BYTES)  # members that the kernel does not have stay 0
    read_info(descriptor, info)
