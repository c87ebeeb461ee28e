"""What a plugin asks of the kernel: its C and its attach points. Only values; no kernel is touched.

`load_bpf` returns a BpfProgram, which `kernel/loader.py` loads.
"""

from collections.abc import Callable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from attrs import Attribute, field, frozen


def _not_of_system_calls(point: "Tracepoint", attribute: "Attribute[str]", event: str) -> None:
    if event.startswith(("syscalls:", "raw_syscalls:")):
        raise ValueError(f"{event}: attach {point.function} to a call with SystemCall")


@frozen
class SystemCall:
    """A system call and the BPF functions that handle its entry and its exit.

    They run for calls of 64-bit and of 32-bit programs, including those made through socketcall(2).
    A machine that does not have the call is no error: other calls of the probe are recorded.

    Attributes:
        name: The call's name, as in `openat` for openat(2).
        enter: The function for its entry, `int <enter>(struct sys_enter *call)`; may be empty.
        exit: The function for its exit, `int <exit>(struct sys_exit *call)`; may be empty.
    """

    name: str
    enter: str = ""
    exit: str = ""

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions' names in the C source."""
        return tuple(function for function in (self.enter, self.exit) if function)


@frozen
class Tracepoint:
    """A BPF function and the tracepoint that it attaches to.

    Attributes:
        function: The function's name in the C source.
        event: `category:name` as in tracefs, e.g. `sched:sched_process_exec`. For system calls, use
            SystemCall.
        optional: Whether the probe can do without it. A kernel that lacks the tracepoint is logged.
        members: The offsets that the C assumes for members of the context. Kernels may change the
            contexts of tracepoints; a member at another offset in the tracepoint's format is an
            error.
    """

    function: str
    event: str = field(validator=_not_of_system_calls)
    optional: bool = False
    members: Mapping[str, int] = field(factory=dict, hash=False)

    @property
    def functions(self) -> tuple[str, ...]:
        """The function's name in the C source."""
        return (self.function,)


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

    @property
    def functions(self) -> tuple[str, ...]:
        """The function's name in the C source."""
        return (self.function,)


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
    attach: tuple[SystemCall | Tracepoint | KernelFunction, ...]
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
