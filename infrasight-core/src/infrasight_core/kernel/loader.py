"""The loader: compiles one probe's C with bcc, loads and attaches it, hands its descriptors over, and exits.

Run as a program by a Python that has bcc (Debian's own), with nothing but the standard library, so that the agent lives in any
virtual environment and LLVM never stays in memory::

    python3 loader.py SOCKET_FD < REQUEST

The request is JSON on standard input: `source`, `cflags`, `attach` (pairs of function and `category:event`; a function whose
event is empty is loaded and hung nowhere), `headers`, `slots`, `memory`, the bytes that the blocks of all CPUs may take, and
for the filters `filter_maps`, `filters` (map, key and value), `filter_state` and `own_work`. The answer is a JSON message on
the Unix socket: `layout` (BCC's description of `struct block`), `slots`, `value_size`, `programs`, `ours` (the agent's
process), and with it the descriptors of the blocks' map, of the filters' maps, of each program and of each attachment, in
that order; or `error`.

A request with `maps`, names, is of a program without blocks: the answer is `programs`, and with it come the descriptors of
these maps, of each program and of each attachment.
"""

import ctypes
import json
import os
import socket
import struct
import sys
from typing import Any

MESSAGE_BYTES = 65536
SYSCALL_BPF, BPF_PROG_TEST_RUN = {"x86_64": 321, "aarch64": 280}, 10


def main() -> None:
    """Answers one request."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    request = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    try:
        from bcc import BPF, lib
    except ImportError as error:
        answer: dict[str, Any] = {"error": f"{sys.executable} has no bcc ({error}): apt-get install python3-bpfcc"}
        channel.send(json.dumps(answer).encode())
        return
    try:
        answer, descriptors = (load_plain if "maps" in request else load)(BPF, lib, request)
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exceptions; whatever it is, the agent must hear of it
        channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)


def load(BPF: Any, lib: Any, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:  # noqa: N803 - bcc's own name
    """Compiles, loads and attaches; if the kernel refuses the code that one way of optimising makes, tries the other."""
    try:
        bpf, slots, programs = compiled(BPF, request, "-Os")
    except Exception:  # noqa: BLE001 - bcc raises nothing narrower; the second attempt's own error is the one to tell
        bpf, slots, programs = compiled(BPF, request, "-O2")
    layout = json.loads(lib.bpf_table_leaf_desc(bpf.module, b"blocks"))
    ours = fill_filters(BPF, lib, bpf, request)
    attached = attach(bpf, request)
    size = ctypes.sizeof(bpf["blocks"].Leaf)
    answer = {"layout": layout, "slots": slots, "value_size": size, "programs": list(programs), "ours": ours}
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
    if libc.syscall(SYSCALL_BPF[os.uname().machine], BPF_PROG_TEST_RUN, attributes, len(attributes)):
        raise OSError(ctypes.get_errno(), "the kernel does not run a program for its loader (BPF_PROG_TEST_RUN)")
    result: int = struct.unpack_from("<I", attributes, 4)[0]
    return result


def compiled(BPF: Any, request: dict[str, Any], optimise: str) -> tuple[Any, int, dict[str, Any]]:  # noqa: N803
    """The module, halving the slots until the blocks fit the memory, and its programs, verified.

    Kernels before 6.2 refuse a loop whose last instruction falls through into its first ("back-edge"); whether LLVM lays it
    out so depends on its version and on how it optimises.
    """
    slots, cpus = request["slots"], request["cpus"]
    while True:
        bpf = BPF(text=request["source"].encode(), cflags=[*request["cflags"], optimise, f"-DSLOTS={slots}"])
        if ctypes.sizeof(bpf["blocks"].Leaf) * cpus <= request["memory"] or slots <= 64:
            break
        bpf.cleanup()
        slots //= 2
    return bpf, slots, {name: bpf.load_func(name.encode(), BPF.TRACEPOINT) for name, _ in request["attach"]}


if __name__ == "__main__":
    main()
