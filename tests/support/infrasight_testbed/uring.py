"""Requests to an io_uring, made by a C program without liburing."""

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

ASYNC, SILENT = 1 << 4, 1 << 6  # IOSQE_*
SQPOLL, NEVER_TAKE = 1 << 1, 1 << 31
UNTOLD = 0x7FFFFFFF
_OPENAT, _OPENAT2 = 18, 28
_AREA, _SQE = 0x20000000, 64
_SOURCE = Path(__file__).parents[1] / "workloads/uring_calls.c"


@frozen
class Request:
    """An open.

    Attributes:
        path: Bytes, or an address.
        flags: Open flags.
        mode: Of a file to be created.
        how: openat2's struct open_how; then flags and mode do not count.
        dirfd: The directory.
        slot: Where a direct descriptor is to stand, from 1; 0 for an ordinary one.
        sqe_flags: IOSQE_*.
    """

    path: bytes | int
    flags: int = 0
    mode: int = 0
    how: bytes = b""
    dirfd: int = -100
    slot: int = 0
    sqe_flags: int = 0


@frozen
class Made:
    """What the program did.

    Attributes:
        pid: Its process.
        results: What each request returned, UNTOLD where nobody heard.
    """

    pid: int
    results: list[int] = field(factory=list)


def build(folder: Path) -> Path:
    """Compiles the program."""
    program = folder / "uring_calls"
    subprocess.run(["cc", "-O2", "-o", program, _SOURCE], check=True)
    return program


def make_requests(
    program: Path, uid: int, requests: Sequence[Request], setup: int = 0, completions: int = 0, given: Sequence[int] = ()
) -> Made:
    """Makes the requests.

    Args:
        program: Of `build`.
        uid: The user and group who makes them.
        requests: What is asked for.
        setup: IORING_SETUP_*, and NEVER_TAKE to leave the completions where they are.
        completions: The size of the completion queue, one request at a time; by default there is room, and 32 go at a time.
        given: Descriptors that the program is to have.
    """
    command, pipe = [str(program), hex(setup), str(completions)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=given, env={}, user=uid, group=uid, extra_groups=())
    said, _ = process.communicate(_packed(requests))
    assert process.returncode == 0
    return Made(process.pid, list(struct.unpack(f"<{len(requests)}i", said)))


def _packed(requests: Sequence[Request]) -> bytes:
    memory = bytearray(_SQE * (1 + len(requests)))
    struct.pack_into("<I", memory, 0, len(requests))

    def put(data: bytes) -> int:
        memory.extend(bytes(-len(memory) % 8))
        memory.extend(data)
        return _AREA + len(memory) - len(data)

    for index, of in enumerate(requests, 1):
        path = put(of.path + b"\0") if isinstance(of.path, bytes) else of.path
        opcode, off, length = (_OPENAT2, put(of.how), len(of.how)) if of.how else (_OPENAT, 0, of.mode)
        flags = 0 if of.how else of.flags
        sqe = struct.pack("<BBHiQQII", opcode, of.sqe_flags, 0, of.dirfd, off, path, length, flags)
        sqe += struct.pack("<QHHI", 0, 0, 0, of.slot)
        memory[_SQE * index : _SQE * index + len(sqe)] = sqe
    return bytes(memory)
