"""The loader: compiles one probe's C with bcc, loads and attaches it, hands its descriptors over, and exits.

Run as a program by a Python that has bcc (Debian's own), with nothing but the standard library, so that the agent lives in any
virtual environment and LLVM never stays in memory::

    python3 loader.py SOCKET_FD < REQUEST

The request is JSON on standard input: `source`, `cflags`, `attach` (pairs of function and `category:event`; a function whose
event is empty is loaded and hung nowhere), `functions` (a function, the kernel's, and whether it is optional), `headers`,
`slots`, `memory`, the bytes that the blocks of all CPUs may take, and for the filters `filter_maps`, `filters` (map, key and
value), `filter_state` and `own_work`. The answer is a JSON message on the Unix socket: `layout` (BCC's description of
`struct block`), `slots`, `value_size`, `programs`, `ours` (the agent's process), `functions` and `refused` (the programs that
hang on the kernel's functions, and why the others do not), and with it the descriptors of the blocks' map, of the filters'
maps, of each program on a tracepoint and of each attachment, in that order; or `error`.

A request with `maps`, names, is of a program without blocks: the answer is `programs`, and with it come the descriptors of
these maps, of each program and of each attachment. The request `try` is a list of the kernel's functions; the answer is
`refused` alone.
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
FENTRY = b"kfunc__"  # how bcc knows what a program is for
SYSCALL_BPF, BPF_PROG_TEST_RUN = {"x86_64": 321, "aarch64": 280}, 10


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
        kind = load_plain if "maps" in request else tried if "try" in request else load
        answer, descriptors = kind(BPF, lib, request)
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exceptions; whatever it is, the agent must hear of it
        channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)


def tried(
    BPF: Any,  # noqa: N803 - bcc's own name
    lib: Any,
    request: dict[str, Any],
) -> tuple[dict[str, Any], list[int]]:
    """Which of the kernel's functions let no program hang on them, and why."""
    refused = {name: refusal(BPF, lib, name) for name in request["try"]}
    return {"refused": {name: reason for name, reason in refused.items() if reason}}, []


def refusal(BPF: Any, lib: Any, kernel_function: str, attach: bool = True) -> str:  # noqa: N803
    """Why no program can hang on a function of the kernel, tried with one that does nothing; empty where it can.

    Loading it is quick; to attach it takes what patching the kernel takes, and so does to detach it.
    """
    nothing = struct.pack("<QQ", 0xB7, 0x95)  # r0 = 0; exit
    program = lib.bcc_prog_load(
        BPF.TRACING, FENTRY + kernel_function.encode(), nothing, len(nothing), b"GPL", 0, 0, None, 0
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
    """The error of a call of bcc's, which is in `errno` or is the result: its short name, and what it means here."""
    name = errno.errorcode.get(-result if result < -1 else ctypes.get_errno(), "unknown error")
    return {
        "EPERM": "not permitted (EPERM), as by a locked-down kernel",
        "ESRCH": "the kernel has no such function",
        "ENOENT": "the kernel has no such function",
    }.get(name, name)


def load(BPF: Any, lib: Any, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:  # noqa: N803
    """Compiles, loads and attaches. If the kernel refuses the code that one way of optimising makes, tries the other; if it
    refuses both, goes without the programs on its functions that are optional."""
    functions = {name: kernel for name, kernel, _ in request["functions"]}
    needed = [name for name, _, optional in request["functions"] if not optional]
    refused = {
        name: reason
        for name, kernel in functions.items()
        if (reason := refusal(BPF, lib, kernel, attach=False))
    }
    for name in needed:
        if name in refused:
            raise OSError(
                f"{name}: no program may hang on the kernel's {functions[name]}: {refused[name]}"
            )
    possible = [name for name in functions if name not in refused]
    for attempt, wanted in ("-Os", possible), ("-O2", possible), ("-Os", needed), ("-O2", needed):
        try:
            bpf, slots, programs = compiled(
                BPF, request, [attempt, *(f"-DHAVE_{name}" for name in wanted)]
            )
            attached = [attach_function(BPF, lib, bpf, name, functions[name]) for name in wanted]
            break
        except (
            Exception
        ) as error:  # bcc raises nothing narrower; the last attempt's own error is the one to tell
            if attempt == "-O2":
                if wanted == needed:
                    raise
                refused |= {name: str(error) for name in wanted if name not in needed}
    layout = json.loads(lib.bpf_table_leaf_desc(bpf.module, b"blocks"))
    ours = fill_filters(BPF, lib, bpf, request)
    attached += attach(bpf, request)
    size = ctypes.sizeof(bpf["blocks"].Leaf)
    answer = {
        "layout": layout,
        "slots": slots,
        "value_size": size,
        "programs": list(programs),
        "ours": ours,
    }
    answer |= {"functions": wanted, "refused": refused}
    maps = [bpf[name].map_fd for name in ("blocks", *request["filter_maps"])]
    return answer, [*maps, *(p.fd for p in programs.values()), *attached]


def load_plain(BPF: Any, lib: Any, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:  # noqa: N803
    """Compiles, loads and attaches a program that has no blocks."""
    bpf = BPF(text=request["source"].encode(), cflags=[*request["cflags"], "-Os"])
    programs = {name: bpf.load_func(name.encode(), BPF.TRACEPOINT) for name, _ in request["attach"]}
    attached = attach(bpf, request)
    maps = [bpf[name].map_fd for name in request["maps"]]
    return {"programs": list(programs)}, [*maps, *(p.fd for p in programs.values()), *attached]


def attach(bpf: Any, request: dict[str, Any]) -> list[int]:
    """Hangs each function on its tracepoint; returns what keeps them there."""
    events = [(name.encode(), event.encode()) for name, event in request["attach"] if event]
    for name, event in events:
        bpf.attach_tracepoint(tp=event, fn_name=name)
    return [bpf.tracepoint_fds[event] for _, event in events]


def attach_function(BPF: Any, lib: Any, bpf: Any, name: str, kernel_function: str) -> int:  # noqa: N803
    """Hangs a program on a function of the kernel, whose name bcc wants behind a prefix; returns what keeps it there."""
    start, size = (
        get(bpf.module, name.encode()) for get in (lib.bpf_function_start, lib.bpf_function_size)
    )
    if not start:
        raise OSError(f"Unknown program {name}")
    license, version = lib.bpf_module_license(bpf.module), lib.bpf_module_kern_version(bpf.module)
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
    """Puts the filters in force; returns the agent's process, or NOBODY where its own work is to be recorded."""
    for name, key, value in request["filters"]:
        if lib.bpf_update_elem(bpf[name].map_fd, bytes.fromhex(key), bytes.fromhex(value), 0):
            raise OSError(ctypes.get_errno(), f"filters: {name} cannot be written")
    (word,) = struct.unpack("<Q", bytes.fromhex(request["filter_state"]))
    ours: int = word >> 32
    if not request["own_work"]:
        ours = run_once(bpf.load_func(b"agent_process", BPF.RAW_TRACEPOINT).fd)
    state = struct.pack("<Q", ours << 32 | word & 0xFFFFFFFF)
    if lib.bpf_update_elem(bpf["filter_state"].map_fd, bytes(4), state, 0):
        raise OSError(ctypes.get_errno(), "filters: their state cannot be written")
    return ours


def run_once(program: int) -> int:
    """Runs a program in this process and returns what it returns: bpf(2), BPF_PROG_TEST_RUN."""
    attributes = ctypes.create_string_buffer(struct.pack("<I", program), 80)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(
        SYSCALL_BPF[os.uname().machine], BPF_PROG_TEST_RUN, attributes, len(attributes)
    ):
        raise OSError(
            ctypes.get_errno(),
            "the kernel does not run a program for its loader (BPF_PROG_TEST_RUN)",
        )
    result: int = struct.unpack_from("<I", attributes, 4)[0]
    return result


def compiled(
    BPF: Any,  # noqa: N803 - bcc's own name
    request: dict[str, Any],
    flags: list[str],
) -> tuple[Any, int, dict[str, Any]]:
    """The module, halving the slots until the blocks fit the memory, and its programs on tracepoints, verified.

    Kernels before 6.2 refuse a loop whose last instruction falls through into its first ("back-edge"); whether LLVM lays it
    out so depends on its version and on how it optimises.
    """
    slots, cpus = request["slots"], request["cpus"]
    while True:
        bpf = BPF(
            text=request["source"].encode(), cflags=[*request["cflags"], *flags, f"-DSLOTS={slots}"]
        )
        if ctypes.sizeof(bpf["blocks"].Leaf) * cpus <= request["memory"] or slots <= 64:
            break
        bpf.cleanup()
        slots //= 2
    return (
        bpf,
        slots,
        {name: bpf.load_func(name.encode(), BPF.TRACEPOINT) for name, _ in request["attach"]},
    )


if __name__ == "__main__":
    main()
