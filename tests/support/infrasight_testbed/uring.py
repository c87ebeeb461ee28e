"""Requests to an io_uring, made by a C program without liburing."""

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

FIXED = 1 << 0
ASYNC = 1 << 4
SILENT = 1 << 6  # IOSQE_*
MULTISHOT = 1  # IORING_ACCEPT_*
SQPOLL = 1 << 1
NEVER_TAKE = 1 << 31
NOT_COMPLETED = 0x7FFFFFFF
_ACCEPT = 13
_CONNECT = 16
_OPENAT = 18
_OPENAT2 = 28
_Put = Callable[[bytes], int]  # puts bytes into the program's memory; their address
_AREA = 0x20000000
_SQE = 64
_SOURCE = Path(__file__).parents[1] / "workloads/uring_calls.c"


class AnyRequest(Protocol):
    """What can be asked for."""

    def packed(self, put: _Put) -> bytes:
        """Its `struct io_uring_sqe`, as far as it is not zeros."""


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

    def packed(self, put: _Put) -> bytes:
        """Its `struct io_uring_sqe`."""
        path = put(self.path + b"\0") if isinstance(self.path, bytes) else self.path
        opcode, off, length = (
            (_OPENAT2, put(self.how), len(self.how)) if self.how else (_OPENAT, 0, self.mode)
        )
        flags = 0 if self.how else self.flags
        sqe = struct.pack(
            "<BBHiQQII", opcode, self.sqe_flags, 0, self.dirfd, off, path, length, flags
        )
        return sqe + struct.pack("<QHHI", 0, 0, 0, self.slot)


_ENTER_CALL = 426  # io_uring_enter(2), the same number on x86-64 and arm64


@frozen
class Accept:
    """An accept.

    Attributes:
        fd: The listening descriptor.
        flags: SOCK_*.
        slot: Where a direct descriptor is to stand, from 1; 0 for an ordinary one.
        how: MULTISHOT, or 0.
        sqe_flags: IOSQE_*.
    """

    fd: int
    flags: int = 0
    slot: int = 0
    how: int = 0
    sqe_flags: int = 0

    def packed(self, put: _Put) -> bytes:
        """Its `struct io_uring_sqe`."""
        sqe = struct.pack(
            "<BBHiQQII", _ACCEPT, self.sqe_flags, self.how, self.fd, 0, 0, 0, self.flags
        )
        return sqe + struct.pack("<QHHI", 0, 0, 0, self.slot)


@frozen
class Connect:
    """A connect.

    Attributes:
        fd: The descriptor.
        address: A `struct sockaddr`, or where it is.
        length: Its length, where it is not that of the bytes.
        sqe_flags: IOSQE_*.
    """

    fd: int
    address: bytes | int
    length: int | None = None
    sqe_flags: int = 0

    def packed(self, put: _Put) -> bytes:
        """Its `struct io_uring_sqe`."""
        address, length = (
            (self.address, 0)
            if isinstance(self.address, int)
            else (put(self.address), len(self.address))
        )
        length = length if self.length is None else self.length
        return struct.pack("<BBHiQQ", _CONNECT, self.sqe_flags, 0, self.fd, length, address)


@frozen
class RequestResults:
    """The outcome of a program's requests.

    Attributes:
        pid: Its process.
        results: The result of each request, NOT_COMPLETED if it had no completion.
    """

    pid: int
    results: list[int] = field(factory=list)


def build(folder: Path) -> Path:
    """Compiles the program."""
    program = folder / "uring_calls"
    subprocess.run(["cc", "-O2", "-o", program, _SOURCE], check=True)
    return program


def make_requests(
    program: Path,
    uid: int,
    requests: Sequence[AnyRequest],
    setup: int = 0,
    completions: int = 0,
    given: Sequence[int] = (),
) -> RequestResults:
    """Makes the requests.

    Args:
        program: Of `build`.
        uid: The user and group who makes them.
        requests: What is asked for.
        setup: IORING_SETUP_*, and NEVER_TAKE to leave the completions where they are.
        completions: The size of the completion queue, for one request at a time; by default it is
            large, and 32 requests go at a time.
        given: Descriptors that the program is to have.
    """
    command = [str(program), hex(setup), str(completions)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        pass_fds=given,
        env={},
        user=uid,
        group=uid,
        extra_groups=(),
    )
    output, _ = process.communicate(_packed(requests))
    assert process.returncode == 0
    return RequestResults(process.pid, list(struct.unpack(f"<{len(requests)}i", output)))


def is_waiting(program: Path) -> bool:
    """Whether a process of the program has made its requests and waits for a completion."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "exe").readlink() == program:
                number = (process / "syscall").read_text().split()[0]
                return number == str(_ENTER_CALL)
        except OSError:  # it has ended
            continue
    return False


def _packed(requests: Sequence[AnyRequest]) -> bytes:
    memory = bytearray(_SQE * (1 + len(requests)))
    struct.pack_into("<I", memory, 0, len(requests))

    def put(data: bytes) -> int:
        memory.extend(bytes(-len(memory) % 8))
        memory.extend(data)
        return _AREA + len(memory) - len(data)

    for index, of in enumerate(requests, 1):
        sqe = of.packed(put)
        memory[_SQE * index : _SQE * index + len(sqe)] = sqe
    return bytes(memory)
