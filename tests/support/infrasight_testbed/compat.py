"""System calls of the 32-bit ABI, made by a 32-bit program or by a 64-bit one."""

import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import frozen

NUMBERS = {  # of i386: arch/x86/entry/syscalls/syscall_32.tbl
    "open": 5,
    "creat": 8,
    "execve": 11,
    "chmod": 15,
    "fchmod": 94,
    "socketcall": 102,
    "openat": 295,
    "fchmodat": 306,
    "execveat": 358,
    "connect": 362,
    "accept4": 364,
    "openat2": 437,
    "fchmodat2": 452,
}
Argument = int | bytes | Sequence[bytes | int]
Call = tuple[str, Sequence[Argument]]
_AREA = 0x20000000
_RECORD = 24
_SOURCE = Path(__file__).parents[1] / "workloads/compat_calls.c"
only_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="i386 calls are x86's")
# The guard counts the machine's calls, so that two files must not make them at the same time.
one_file_at_a_time = pytest.mark.xdist_group("compat")


@frozen
class CallResults:
    """The outcome of a program's known calls.

    Attributes:
        pid: Its process.
        results: The return value of each call. A call that executes another program returns
            nothing, and no later call is made.
    """

    pid: int
    results: list[int]


def build(folder: Path, bits: int) -> Path:
    """Compiles the program for 32 or 64 bits, without libraries."""
    program = folder / f"compat_calls_{bits}"
    flags = [
        "-O1",
        "-static",
        "-nostdlib",
        "-ffreestanding",
        "-fno-pie",
        "-no-pie",
        "-fno-stack-protector",
        "-fno-builtin",
    ]
    subprocess.run(["cc", f"-m{bits}", *flags, "-o", program, _SOURCE], check=True)
    program.chmod(0o755)
    return program


def make_calls(program: Path, calls: Sequence[Call], given: Sequence[int] = ()) -> CallResults:
    """Makes the calls.

    Bytes are passed as a pointer to them with a final NUL, a list as a pointer to an array.

    Args:
        program: Of `build`.
        calls: Names and arguments.
        given: Descriptors that the program inherits.
    """
    process = subprocess.Popen(
        [program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=given,
        env={},
    )
    output, _ = process.communicate(_packed(calls))
    assert process.returncode == 0
    return CallResults(process.pid, list(struct.unpack(f"<{len(output) // 4}i", output)))


def _packed(calls: Sequence[Call]) -> bytes:
    memory = bytearray(4 + _RECORD * len(calls))
    struct.pack_into("<I", memory, 0, len(calls))

    def put(data: bytes) -> int:
        memory.extend(bytes(-len(memory) % 8))
        memory.extend(data)
        return _AREA + len(memory) - len(data)

    for index, (name, arguments) in enumerate(calls):
        words = []
        for argument in arguments:
            if isinstance(argument, int):
                words.append(argument)
            elif isinstance(argument, bytes):
                words.append(put(argument + b"\0"))
            else:
                items = [item if isinstance(item, int) else put(item + b"\0") for item in argument]
                words.append(put(struct.pack(f"<{len(items) + 1}I", *items, 0)))
        words += [0] * (5 - len(words))
        struct.pack_into(
            "<6I",
            memory,
            4 + _RECORD * index,
            NUMBERS[name],
            *(word & 0xFFFFFFFF for word in words),
        )
    return bytes(memory)
