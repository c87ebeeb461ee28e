"""Compiles a program's C with bcc, loads and attaches it, and passes its descriptors on.

This file runs as a separate program, under a Python that has bcc (Debian's own), and imports only
the standard library besides. The agent can therefore live in any virtual environment, and LLVM does
not stay in memory. `loader.py` is the other side, in the agent::

    python3 bcc_process.py SOCKET_FD < REQUEST

The request is a JSON object on standard input. For a program with blocks:

    source, cflags   the C and the compiler's flags
    attach           pairs of a function and its tracepoint `category:event`
    calls            functions for system calls, which are loaded but not attached
    functions        triples: a function, the kernel function, and whether it is optional
    headers          the folder of the kernel's headers
    slots, cpus      the wanted slots of a block, and the number of blocks
    memory           the bytes that all blocks may take
    filter_maps      the names of the filters' maps
    filters          triples: the map, a key and a value, in hexadecimal
    filter_state     the filters' state, in hexadecimal
    own_work         whether to record the agent's own work

The answer is a JSON message on the Unix socket: `layout` (BCC's description of `struct block`),
`slots`, `value_size`, `programs`, `agent_process`, `functions` (the programs that are attached to
kernel functions) and `unattached` (why the others are not). The descriptors of the blocks' map, the
filters' maps, the maps of the next handlers, each program (on tracepoints, then for calls) and each
attachment come with it, in that order. A failure is answered with `error`.

With `maps`, a list of names, the request is for a program without blocks: `attach` has pairs of a
function and its raw tracepoint, empty for one that is loaded but not attached. The answer is empty,
with the descriptors of these maps, of each program and of each attachment. With `try`, a list of
kernel functions, the answer is `unattached` alone.

The compiler writes its messages to standard error.
"""

import ctypes
import errno
import json
import os
import socket
import struct
import sys
from typing import Any

MESSAGE_BYTES = 65536
FENTRY = b"kfunc__"  # the prefix by which bcc recognizes a program on a kernel function
SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
BPF_PROG_TEST_RUN = 10
LEAST_SLOTS = 64
NEXT_MAPS = ("next_enter", "next_exit")


def main() -> None:
    """Answers one request."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    request = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    try:
        from bcc import BPF, lib
    except ImportError as error:
        answer: dict[str, Any] = {
            "error": f"{sys.executable} has no bcc ({error}): apt-get install python3-bpfcc"
        }
        channel.send(json.dumps(answer).encode())
        return
    try:
        if "maps" in request:
            answer, descriptors = load_plain(BPF, request)
        elif "try" in request:
            answer, descriptors = try_functions(BPF, lib, request)
        else:
            answer, descriptors = load(BPF, lib, request)
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exceptions; report all of them
        channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)


def try_functions(
    BPF: Any,  # noqa: N803 - bcc's own name
    lib: Any,
    request: dict[str, Any],
) -> tuple[dict[str, Any], list[int]]:
    """Reports which kernel functions no program can attach to, and why."""
    reasons = {name: attach_error(BPF, lib, name) for name in request["try"]}
    return {"unattached": {name: reason for name, reason in reasons.items() if reason}}, []


def attach_error(BPF: Any, lib: Any, kernel_function: str, attach: bool = True) -> str:  # noqa: N803
    """Returns why no program can attach to a kernel function; empty if one can.

    An empty program is tried. Loading it is quick; attaching and detaching it patch the kernel.
    """
    instructions = struct.pack("<QQ", 0xB7, 0x95)  # r0 = 0; exit
    name = FENTRY + kernel_function.encode()
    program = lib.bcc_prog_load(
        BPF.TRACING, name, instructions, len(instructions), b"GPL", 0, 0, None, 0
    )
    if program < 0:
        return reason_of(program)
    attached = lib.bpf_attach_kfunc(program) if attach else program
    reason = reason_of(attached) if attached < 0 else ""
    for descriptor in {program, attached}:
        if descriptor >= 0:
            os.close(descriptor)
    return reason


def reason_of(result: int) -> str:
    """Explains a failed call of bcc's. Its error is the result, or in `errno`."""
    name = errno.errorcode.get(-result if result < -1 else ctypes.get_errno(), "unknown error")
    return {
        "EPERM": "not permitted (EPERM), as by a locked-down kernel",
        "ESRCH": "the kernel has no such function",
        "ENOENT": "the kernel has no such function",
    }.get(name, name)


def load(BPF: Any, lib: Any, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:  # noqa: N803
    """Compiles, loads and attaches a program with blocks.

    If the verifier rejects the code of one optimization level, the other is tried. If it rejects
    both, the optional programs on kernel functions are left out.
    """
    functions = {name: kernel_function for name, kernel_function, _ in request["functions"]}
    required = [name for name, _, optional in request["functions"] if not optional]
    unattached = {}
    for name, kernel_function in functions.items():
        reason = attach_error(BPF, lib, kernel_function, attach=False)
        if reason and name in required:
            raise OSError(f"{name}: cannot attach to kernel function {kernel_function}: {reason}")
        if reason:
            unattached[name] = reason
    possible = [name for name in functions if name not in unattached]
    attempts = (("-Os", possible), ("-O2", possible), ("-Os", required), ("-O2", required))
    for optimization, wanted in attempts:
        flags = [optimization, *(f"-DHAVE_{name}" for name in wanted)]
        try:
            bpf, slots, programs = compile_blocks(BPF, request, flags)
            attached = [attach_function(BPF, lib, bpf, name, functions[name]) for name in wanted]
            break
        except (
            Exception
        ) as error:  # bcc raises nothing narrower; the last attempt's error is raised
            if optimization == "-Os":
                continue
            if wanted == required:
                raise
            unattached |= {name: str(error) for name in wanted if name not in required}
    agent_process = fill_filters(BPF, lib, bpf, request)
    attached += attach(bpf, request)
    answer = {
        "layout": json.loads(lib.bpf_table_leaf_desc(bpf.module, b"blocks")),
        "slots": slots,
        "value_size": ctypes.sizeof(bpf["blocks"].Leaf),
        "programs": list(programs),
        "agent_process": agent_process,
        "functions": wanted,
        "unattached": unattached,
    }
    maps = [bpf[name].map_fd for name in ("blocks", *request["filter_maps"], *NEXT_MAPS)]
    return answer, [*maps, *(program.fd for program in programs.values()), *attached]


def load_plain(BPF: Any, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:  # noqa: N803
    """Compiles, loads and attaches a program without blocks."""
    bpf = BPF(text=request["source"].encode(), cflags=[*request["cflags"], "-Os"])
    descriptors = [bpf[name].map_fd for name in request["maps"]]
    events = [(name.encode(), event.encode()) for name, event in request["attach"]]
    for name, _ in events:
        descriptors.append(bpf.load_func(name, BPF.RAW_TRACEPOINT).fd)
    for name, event in events:
        if event:
            bpf.attach_raw_tracepoint(tp=event, fn_name=name)
            descriptors.append(bpf.raw_tracepoint_fds[event])
    return {}, descriptors


def attach(bpf: Any, request: dict[str, Any]) -> list[int]:
    """Attaches each function to its tracepoint; returns the descriptors that keep it attached."""
    events = [(program_of(name), event.encode()) for name, event in request["attach"]]
    for name, event in events:
        bpf.attach_tracepoint(tp=event, fn_name=name)
    return [bpf.tracepoint_fds[event] for _, event in events]


def program_of(function: str) -> bytes:
    """The name of the program around a function: see handler.bpf.h."""
    return f"{function}__run".encode()


def attach_function(BPF: Any, lib: Any, bpf: Any, name: str, kernel_function: str) -> int:  # noqa: N803
    """Attaches a program to a kernel function; returns the descriptor that keeps it attached."""
    start = lib.bpf_function_start(bpf.module, name.encode())
    size = lib.bpf_function_size(bpf.module, name.encode())
    if not start:
        raise OSError(f"Unknown program {name}")
    license = lib.bpf_module_license(bpf.module)
    version = lib.bpf_module_kern_version(bpf.module)
    named = FENTRY + kernel_function.encode()
    program: int = lib.bcc_func_load(
        bpf.module, BPF.TRACING, named, start, size, license, version, 0, None, 0, None, -1
    )
    if program < 0:
        raise OSError(f"Failed to load BPF program {name}: {reason_of(program)}")
    attached: int = lib.bpf_attach_kfunc(program)
    if attached < 0:
        raise OSError(f"Failed to attach BPF program {name}: {reason_of(attached)}")
    return attached


def fill_filters(BPF: Any, lib: Any, bpf: Any, request: dict[str, Any]) -> int:  # noqa: N803
    """Activates the filters; returns the agent's process, NOBODY if its own work is recorded."""
    for name, key, value in request["filters"]:
        if lib.bpf_update_elem(bpf[name].map_fd, bytes.fromhex(key), bytes.fromhex(value), 0):
            raise OSError(ctypes.get_errno(), f"filters: {name} cannot be written")
    (word,) = struct.unpack("<Q", bytes.fromhex(request["filter_state"]))
    agent_process: int = word >> 32
    if not request["own_work"]:
        agent_process = run_once(bpf.load_func(b"agent_process", BPF.RAW_TRACEPOINT).fd)
    state = struct.pack("<Q", agent_process << 32 | word & 0xFFFFFFFF)
    if lib.bpf_update_elem(bpf["filter_state"].map_fd, bytes(4), state, 0):
        raise OSError(ctypes.get_errno(), "filters: their state cannot be written")
    return agent_process


def run_once(program: int) -> int:
    """Runs a program in this process and returns its result: bpf(2), BPF_PROG_TEST_RUN."""
    attributes = ctypes.create_string_buffer(struct.pack("<I", program), 80)
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYSCALL_BPF[os.uname().machine]
    if libc.syscall(number, BPF_PROG_TEST_RUN, attributes, len(attributes)):
        raise OSError(
            ctypes.get_errno(),
            "the kernel does not run a program for its loader (BPF_PROG_TEST_RUN)",
        )
    result: int = struct.unpack_from("<I", attributes, 4)[0]
    return result


def compile_blocks(
    BPF: Any,  # noqa: N803 - bcc's own name
    request: dict[str, Any],
    flags: list[str],
) -> tuple[Any, int, dict[str, Any]]:
    """Compiles the module and loads its programs, which the kernel verifies.

    The slots are halved until the blocks fit the memory. Returns the module, its slots and the
    programs.

    Kernels before 6.2 reject a loop whose last instruction falls through into its first
    ("back-edge"). Whether LLVM emits such a loop depends on its version and on the optimization.
    """
    slots = request["slots"]
    while True:
        cflags = [*request["cflags"], *flags, f"-DSLOTS={slots}"]
        bpf = BPF(text=request["source"].encode(), cflags=cflags)
        size = ctypes.sizeof(bpf["blocks"].Leaf) * request["cpus"]
        if size <= request["memory"] or slots <= LEAST_SLOTS:
            break
        bpf.cleanup()
        slots //= 2
    programs = {
        name: bpf.load_func(program_of(name), BPF.TRACEPOINT) for name, _ in request["attach"]
    }
    for name in request["calls"]:
        programs[name] = bpf.load_func(program_of(name), BPF.RAW_TRACEPOINT)
    return bpf, slots, programs


if __name__ == "__main__":
    main()
