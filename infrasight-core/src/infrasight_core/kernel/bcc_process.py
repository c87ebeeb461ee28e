"""Compiles a program's C with bcc and prints what the compiler made of it.

This file runs as a separate program, under a Python that has bcc (Debian's own), and imports only
the standard library besides. The agent can therefore live in any virtual environment, and LLVM does
not stay in memory. `bcc_client.py` is the other side, in the agent::

    python3 bcc_process.py < REQUEST

The request is a JSON object on standard input:

    source, cflags   the C and the compiler's flags
    headers          the folder of the kernel's headers
    slots, cpus      the wanted slots of a block, and the number of blocks; none for a program
                     without blocks
    memory           the bytes that all blocks may take

The answer is a JSON object on standard output, which `compiled_program.py` documents: the
instructions of every function, with names in place of the descriptors of maps, and what the maps
must be like. A failure is answered with `error`. The compiler writes its messages to standard
error.

BCC creates the maps while it compiles, which needs the rights of loading. They end with this
process.
"""

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LEAST_SLOTS = 64
INSTRUCTION_BYTES = 8
SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
OBJ_GET_INFO_BY_FD = 15
MAP_INFO = "<6I"  # the beginning of struct bpf_map_info of include/uapi/linux/bpf.h
LOAD_64_BITS = 0x18
PSEUDO_MAP_FD = 1  # the source register of a load whose value is the descriptor of a map


def main() -> None:
    """Answers one request."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is a message
    request = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    try:
        from bcc import BPF, lib
    except ImportError as error:
        answer: dict[str, Any] = {
            "error": f"{sys.executable} has no bcc ({error}): apt-get install python3-bpfcc"
        }
    else:
        try:
            answer = compiled(BPF, lib, request)
        except Exception as error:  # noqa: BLE001 - bcc raises bare Exceptions; report all of them
            answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, answers)
    answers.flush()
    os._exit(0)  # LLVM takes a while to clean up


def compiled(BPF: Any, lib: Any, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 - bcc's
    """Compiles a program. The slots are halved until the blocks fit the memory."""
    slots = request.get("slots", 0)
    while True:
        slot_flags = [f"-DSLOTS={slots}"] if slots else []
        bpf = BPF(text=request["source"].encode(), cflags=[*request["cflags"], *slot_flags])
        descriptors = map_descriptors(lib, bpf.module)
        maps = [map_of(name, descriptor) for name, descriptor in descriptors.items()]
        if not slots or slots <= LEAST_SLOTS:
            break
        (block,) = [each["value_bytes"] for each in maps if each["name"] == "blocks"]
        if block * request["cpus"] <= request["memory"]:
            break
        bpf.cleanup()
        slots //= 2
    layout = lib.bpf_table_leaf_desc(bpf.module, b"blocks") if slots else b"[]"
    return {
        "maps": maps,
        "functions": functions_of(lib, bpf, {fd: name for name, fd in descriptors.items()}),
        "licence": lib.bpf_module_license(bpf.module).decode(),
        "slots": slots,
        "layout": json.loads(layout),
        "compiler": mapped_files(),
    }


def map_descriptors(lib: Any, module: int) -> dict[str, int]:
    """Returns the descriptors of a module's maps by name."""
    pointer = ctypes.c_void_p(module)
    lib.bpf_num_tables.restype = ctypes.c_size_t
    lib.bpf_table_name.restype = ctypes.c_char_p
    descriptors = {}
    for number in range(lib.bpf_num_tables(pointer)):
        name = lib.bpf_table_name(pointer, ctypes.c_size_t(number))
        descriptors[name.decode()] = lib.bpf_table_fd(module, name)
    return descriptors


def map_of(name: str, descriptor: int) -> dict[str, Any]:
    """Describes a map, as the kernel has it."""
    info = ctypes.create_string_buffer(256)
    attributes = ctypes.create_string_buffer(
        struct.pack("<IIQ", descriptor, len(info), ctypes.addressof(info)), 16
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SYSCALL_BPF[os.uname().machine], OBJ_GET_INFO_BY_FD, attributes, 16):
        raise OSError(ctypes.get_errno(), f"map {name} cannot be described")
    kind, _, key_bytes, value_bytes, entries, flags = struct.unpack_from(MAP_INFO, info)
    return {
        "name": name,
        "kind": kind,
        "key_bytes": key_bytes,
        "value_bytes": value_bytes,
        "entries": entries,
        "flags": flags,
    }


def functions_of(lib: Any, bpf: Any, names: dict[int, str]) -> list[dict[str, Any]]:
    """Returns the functions of a module.

    Args:
        lib: BCC's library.
        bpf: The module.
        names: The name of each map by its descriptor.
    """
    functions = []
    for number in range(lib.bpf_num_functions(bpf.module)):
        name = lib.bpf_function_name(bpf.module, number)
        code = bytearray(bpf.dump_func(name))
        references = []
        for instruction in map_loads(code):
            offset = instruction * INSTRUCTION_BYTES + 4
            (descriptor,) = struct.unpack_from("<i", code, offset)
            struct.pack_into("<i", code, offset, 0)
            references.append({"instruction": instruction, "map": names[descriptor]})
        functions.append({"name": name.decode(), "code": code.hex(), "references": references})
    return functions


def map_loads(code: bytes | bytearray) -> Iterator[int]:
    """Yields the numbers of the instructions that load the descriptor of a map."""
    for offset in range(0, len(code), INSTRUCTION_BYTES):
        if code[offset] == LOAD_64_BITS and code[offset + 1] >> 4 == PSEUDO_MAP_FD:
            yield offset // INSTRUCTION_BYTES


def mapped_files() -> list[dict[str, Any]]:
    """Returns the files that this process consists of: the compiler's libraries and Python."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(None, 5)[5] for line in lines if "/" in line}
    files = []
    for path in sorted(paths):
        file = {"path": path, "size": 0, "changed_ns": 0}
        with suppress(OSError):  # a library that was replaced while it is in use
            status = Path(path).stat()
            file |= {"size": status.st_size, "changed_ns": status.st_mtime_ns}
        files.append(file)
    return files


if __name__ == "__main__":
    main()
