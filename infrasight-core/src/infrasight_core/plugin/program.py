"""What a probe asks the kernel for: values only, nothing here touches the kernel."""

from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from attrs import field, frozen

SOCKETCALLS = 512  # where the calls that are made through socketcall(2) stand, behind all numbers; see guard.bpf.c
SOCKETCALL_LIMIT = 32


def socketcall(number: int) -> int:
    """What `Tracepoint.compat` takes for a call that 32-bit programs may make through socketcall(2): 3 is connect, 5 accept, 18
    accept4. Its program finds the arguments with `socketcall_arguments` of call.bpf.h."""
    if not 0 < number < SOCKETCALL_LIMIT:
        raise ValueError(f"socketcall({number}): there is no such call")
    return SOCKETCALLS + number


def _numbers(given: int | Iterable[int]) -> tuple[int, ...]:
    numbers = (given,) if isinstance(given, int) else tuple(given)
    if wrong := [number for number in numbers if not 0 <= number < SOCKETCALLS + SOCKETCALL_LIMIT]:
        raise ValueError(f"{wrong[0]} is not the number of a call")
    return numbers


@frozen
class Tracepoint:
    """A BPF function and the tracepoint that it hangs on.

    Attributes:
        function: The function's name in the C source.
        event: `category:name` as in tracefs, e.g. `syscalls:sys_exit_execve`.
        optional: Whether the probe goes without it where the kernel does not have it, and says so in the log.
        compat: For `syscalls:` only: the numbers that the call has in the 32-bit ABI of x86 (i386). Such calls pass no
            tracepoint of `syscalls:`; the function is called for them all the same, with the same context.
        compat_arm: The numbers that it has in the 32-bit ABI of arm64 (EABI).
        members: Where the C takes members of the context to stand, which kernels may change for other tracepoints than those of
            system calls; one that stands elsewhere in the tracepoint's format is an error.
    """

    function: str
    event: str
    optional: bool = False
    compat: tuple[int, ...] = field(default=(), converter=_numbers)
    compat_arm: tuple[int, ...] = field(default=(), converter=_numbers)
    members: Mapping[str, int] = field(factory=dict, hash=False)


URING_FIELDS = ("io_kiocb.cmd", "io_kiocb.flags", "io_kiocb.opcode")


def uring_points(submitted: str, completed: str, overflowed: str) -> tuple[Tracepoint, ...]:
    """Where the functions of a probe that records requests of io_uring hang (uring.bpf.h). Kernels without it have none."""
    request, ring = {"ctx": 8, "req": 16, "user_data": 24}, {"ctx": 8, "user_data": 16, "res": 24}
    return (
        Tracepoint(submitted, "io_uring:io_uring_submit_req", optional=True, members=request),
        Tracepoint(
            submitted, "io_uring:io_uring_submit_sqe", optional=True, members=request
        ),  # its name before Linux 6.4
        Tracepoint(
            completed, "io_uring:io_uring_complete", optional=True, members=request | {"res": 32}
        ),
        Tracepoint(overflowed, "io_uring:io_uring_cqe_overflow", optional=True, members=ring),
    )


@frozen
class KernelFunction:
    """A BPF function and the function of the kernel at whose beginning it runs (fentry).

    Whether the kernel allows that is tried when the probe is loaded: a locked-down one does not. The C has the function
    `#ifdef HAVE_<function>`; it may be preempted, so it writes no block, but a map of its own.

    Attributes:
        function: The function's name in the C source, `int <function>(u64 *arguments)`; it returns 0.
        kernel_function: The kernel's name, e.g. `security_path_chmod`.
        optional: Whether the probe goes without it where the kernel does not allow it, and says so in the log.
        lack: What the events are without it, in one line, for `infrasight doctor` and the log.
    """

    function: str
    kernel_function: str
    optional: bool = False
    lack: str = ""


@frozen
class BpfProgram:
    """What `load_bpf` returns.

    Attributes:
        source: The `.bpf.c` resource; it includes `infrasight.bpf.h`.
        attach: Where each of its functions hangs.
        kernel_fields: Members of kernel structs that the C reads, as `struct.member` or `struct.member.member`; each becomes
            the define `OFFSET_struct__member` (dots are `__`), in bytes, from the node's BTF.
        optional_fields: The same of structs that some kernels do not have: -1 there.
        defines: Further `-D` defines, from options.
        headers: Further `.bpf.h` resources that the source includes, beside those of the core.
        slots: How many events a CPU's block holds, a power of two; halved until the blocks fit the memory budget.
    """

    source: Path | Traversable
    attach: tuple[Tracepoint | KernelFunction, ...]
    kernel_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    defines: Mapping[str, int] = field(factory=dict)
    headers: tuple[Path | Traversable, ...] = ()
    slots: int = 16384


@frozen
class Kernel:
    """The kernel that a probe is about to be loaded into.

    Attributes:
        release: `uname -r`.
        machine: `uname -m`.
        cpus: The number of possible CPUs, which is the number of blocks.
    """

    release: str
    machine: str
    cpus: int
