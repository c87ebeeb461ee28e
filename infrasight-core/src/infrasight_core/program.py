"""What a probe asks the kernel for: values only, nothing here touches the kernel."""

from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from attrs import field, frozen


@frozen
class Tracepoint:
    """A BPF function and the tracepoint that it hangs on.

    Attributes:
        function: The function's name in the C source.
        event: `category:name` as in tracefs, e.g. `syscalls:sys_exit_execve`.
        optional: Whether the probe goes without it where the kernel does not have it, and says so in the log.
    """

    function: str
    event: str
    optional: bool = False


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
        defines: Further `-D` defines, from options.
        headers: Further `.bpf.h` resources that the source includes, beside those of the core.
        slots: How many events a CPU's block holds, a power of two; halved until the blocks fit the memory budget.
    """

    source: Path | Traversable
    attach: tuple[Tracepoint | KernelFunction, ...]
    kernel_fields: tuple[str, ...] = ()
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
