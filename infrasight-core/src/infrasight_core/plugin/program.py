"""What a plugin asks of the kernel: its C and its attach points. Only values; no kernel is touched.

`load_bpf` returns a BpfProgram, which `kernel/loader.py` loads.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from attrs import field, frozen

# The guard (guard.bpf.c) has a slot for each call's number, and after these a slot for each call
# that can be made through socketcall(2).
SOCKETCALLS = 512
SOCKETCALL_LIMIT = 32


def socketcall(number: int) -> int:
    """Returns the value of `Tracepoint.compat` for a call made through socketcall(2).

    The function reads the arguments with `socketcall_arguments` (call.bpf.h).

    Args:
        number: The call's number in socketcall(2): 3 is connect, 5 accept, 18 accept4.

    Raises:
        ValueError: There is no such call.
    """
    if not 0 < number < SOCKETCALL_LIMIT:
        raise ValueError(f"socketcall({number}): there is no such call")
    return SOCKETCALLS + number


def _call_numbers(given: int | Iterable[int]) -> tuple[int, ...]:
    numbers = (given,) if isinstance(given, int) else tuple(given)
    for number in numbers:
        if not 0 <= number < SOCKETCALLS + SOCKETCALL_LIMIT:
            raise ValueError(f"{number} is not the number of a call")
    return numbers


@frozen
class Tracepoint:
    """A BPF function and the tracepoint that it attaches to.

    Attributes:
        function: The function's name in the C source.
        event: `category:name` as in tracefs, e.g. `syscalls:sys_exit_execve`.
        optional: Whether the probe can do without it. A kernel that lacks the tracepoint is logged.
        compat: For `syscalls:` only: the call's numbers in the 32-bit ABI of x86 (i386). Such calls
            pass no tracepoint in `syscalls:`; the guard calls the function for them, with the same
            context.
        compat_arm: The call's numbers in the 32-bit ABI of arm64 (EABI).
        members: The offsets that the C assumes for members of the context. Kernels may change the
            contexts of tracepoints other than system calls; a member at another offset in the
            tracepoint's format is an error.
    """

    function: str
    event: str
    optional: bool = False
    compat: tuple[int, ...] = field(default=(), converter=_call_numbers)
    compat_arm: tuple[int, ...] = field(default=(), converter=_call_numbers)
    members: Mapping[str, int] = field(factory=dict, hash=False)


def uring_points(submitted: str, completed: str, overflowed: str) -> tuple[Tracepoint, ...]:
    """Returns the attach points of a probe that records requests of io_uring (uring.bpf.h).

    They are optional, because a kernel may be built without io_uring.

    Args:
        submitted: The function for a request's submission.
        completed: The function for its completion.
        overflowed: The function for a completion that the ring has no room for.
    """
    request = {"ctx": 8, "req": 16, "user_data": 24}
    overflow = {"ctx": 8, "user_data": 16, "res": 24}
    return (
        Tracepoint(submitted, "io_uring:io_uring_submit_req", optional=True, members=request),
        # The same tracepoint before Linux 6.4.
        Tracepoint(submitted, "io_uring:io_uring_submit_sqe", optional=True, members=request),
        Tracepoint(
            completed, "io_uring:io_uring_complete", optional=True, members=request | {"res": 32}
        ),
        Tracepoint(overflowed, "io_uring:io_uring_cqe_overflow", optional=True, members=overflow),
    )


@frozen
class KernelFunction:
    """A BPF function and the kernel function at whose entry it runs (fentry).

    Loading the probe finds out whether the kernel allows that; a locked-down kernel does not. The C
    has the function `#ifdef HAVE_<function>`. It may be preempted, so that it writes its own
    map instead of a block.

    Attributes:
        function: The function's name in the C source, `int <function>(u64 *arguments)`; it
            returns 0.
        kernel_function: The kernel's name, e.g. `security_path_chmod`.
        optional: Whether the probe can do without it. A kernel that does not allow it is logged.
        lack: One line on what the events lack without it, for `infrasight doctor` and the log.
    """

    function: str
    kernel_function: str
    optional: bool = False
    lack: str = ""


@frozen
class BpfProgram:
    """What `load_bpf` returns.

    The kernel fields that the C uses (`FIELD`, `MEMBER`, `OFFSET_…`) are found in the C itself;
    the agent defines their offsets from the BTF of the running kernel.

    Attributes:
        source: The `.bpf.c` resource; it includes `infrasight.bpf.h`.
        attach: The attach points of its functions.
        defines: Further macros for the C, for example from options.
        headers: The plugin's own `.bpf.h` resources that the source includes.
        slots: The number of events that a CPU's block holds, a power of two from 64 to 1,048,576.
            It is halved until the blocks fit the memory budget.
        canary: Performs one harmless operation that the program records, with this text in a TEXT
            column. It is best one that fails, and must not start a process. The agent calls it
            regularly, in a separate thread, to see whether the event arrives; an OSError is
            ignored. `infrasight loadtest` makes its load of it, and therefore counts on exactly one
            event for each call. None for a program whose events cannot be caused in that way.
    """

    source: Path | Traversable
    attach: tuple[Tracepoint | KernelFunction, ...]
    defines: Mapping[str, int] = field(factory=dict)
    headers: tuple[Path | Traversable, ...] = ()
    slots: int = 16384
    canary: Callable[[str], None] | None = None


@frozen
class Kernel:
    """The kernel that a program is loaded into.

    Attributes:
        release: The result of `uname -r`.
        machine: The result of `uname -m`.
        cpus: The number of possible CPUs, which is the number of blocks.
    """

    release: str
    machine: str
    cpus: int
