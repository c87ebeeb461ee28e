"""Creates maps, loads programs and attaches them: bpf(2) and perf_event_open(2).

Source: include/uapi/linux/bpf.h, include/uapi/linux/perf_event.h.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum

from attrs import field, frozen

from infrasight_core.errors import KernelError
from infrasight_core.kernel.attach_points import id_of
from infrasight_core.kernel.bcc_process import INSTRUCTION_BYTES
from infrasight_core.kernel.btf import function_number
from infrasight_core.kernel.compiled_program import CompiledMap, CompiledProgram
from infrasight_core.kernel.prog_info import bpf

_MAP_CREATE = 0
_PROG_LOAD = 5
_PROG_TEST_RUN = 10
_RAW_TRACEPOINT_OPEN = 17
_TRACE_FENTRY = 24  # an attach type
_NAME_BYTES = 15
_MOST_ATTEMPTS = 5  # a signal interrupts the verifier
_LOG_BYTES = (1 << 24) - 1  # the longest log that every kernel writes
_LOG_LINES = 3
_TEST_RUN_BYTES = 80
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTRIBUTES_BYTES = 64  # PERF_ATTR_SIZE_VER0
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408
# r0 = bpf_get_current_pid_tgid(); r0 >>= 32; exit
_CURRENT_PROCESS = bytes.fromhex("850000000e00000077000000200000009500000000000000")
_EMPTY = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
_libc = ctypes.CDLL(None, use_errno=True)


class ProgramType(IntEnum):
    """The types of programs that are loaded here."""

    TRACEPOINT = 5
    RAW_TRACEPOINT = 17
    TRACING = 26


@frozen
class KernelObjects:
    """The maps and programs of one compiled program in the kernel. They end when it is closed.

    Attributes:
        maps: The descriptors of the maps by name.
        programs: The descriptors of the programs, each by a name that its user chooses.
        attachments: The descriptors that keep programs attached, in the order of attaching.
    """

    maps: dict[str, int] = field(factory=dict)
    programs: dict[str, int] = field(factory=dict)
    attachments: list[int] = field(factory=list)

    @classmethod
    def create(cls, compiled: CompiledProgram) -> "KernelObjects":
        """Creates the maps. Raises KernelError."""
        objects = cls()
        try:
            for each in compiled.maps:
                objects.maps[each.name] = create_map(each)
        except KernelError:
            objects.close()
            raise
        return objects

    def load(self, name: str, kind: ProgramType, compiled: CompiledProgram, function: str) -> None:
        """Loads a function as a program, under a name. Raises KernelError."""
        if name not in self.programs:
            self.programs[name] = load_program(kind, compiled, function, self.maps)

    def attach(self, name: str, event: str) -> None:
        """Attaches a program to a tracepoint. Raises KernelError."""
        self.attachments.append(attach_to_tracepoint(self.programs[name], event))

    def attach_raw(self, name: str, event: str) -> None:
        """Attaches a program to a raw tracepoint. Raises KernelError."""
        self.attachments.append(attach_to_raw_tracepoint(self.programs[name], event))

    def attach_to_function(
        self, compiled: CompiledProgram, function: str, kernel_function: str
    ) -> None:
        """Loads a function and attaches it to the entry of a kernel function. Raises KernelError.

        The attachment keeps the program.
        """
        kind = ProgramType.TRACING
        program = load_program(kind, compiled, function, self.maps, kernel_function)
        try:
            self.attachments.append(attach_to_function(program, function))
        finally:
            os.close(program)

    def take_map(self, name: str) -> int:
        """Returns the descriptor of a map, which the caller closes from now on."""
        return self.maps.pop(name)

    def take_programs(self) -> dict[str, int]:
        """Returns the descriptors of all programs, which the caller closes from now on."""
        taken = dict(self.programs)
        self.programs.clear()
        return taken

    def take_attachments(self) -> list[int]:
        """Returns the descriptors of all attachments, which the caller closes from now on."""
        taken = list(self.attachments)
        self.attachments.clear()
        return taken

    def close(self) -> None:
        """Closes what has not been taken."""
        for descriptor in (*self.attachments, *self.programs.values(), *self.maps.values()):
            os.close(descriptor)
        self.attachments.clear()
        self.programs.clear()
        self.maps.clear()


def create_map(compiled: CompiledMap) -> int:
    """Creates an empty map; returns its descriptor. Raises KernelError."""
    attributes = struct.pack(
        "<IIIIIII16s",
        compiled.kind,
        compiled.key_bytes,
        compiled.value_bytes,
        compiled.entries,
        compiled.flags,
        0,
        0,
        _name(compiled.name),
    )
    try:
        return bpf(_MAP_CREATE, bytearray(attributes))
    except OSError as error:
        raise KernelError(f"map {compiled.name} cannot be created: {error.strerror}") from error


def load_program(
    kind: ProgramType,
    compiled: CompiledProgram,
    name: str,
    maps: Mapping[str, int],
    kernel_function: str = "",
) -> int:
    """Loads a program, which the kernel verifies; returns its descriptor.

    Args:
        kind: Its type.
        compiled: What the compiler made.
        name: The function that becomes a program.
        maps: The descriptors of the maps by name.
        kernel_function: For TRACING, the kernel function at whose entry it will run.

    Raises:
        KernelError: There is no such function, or the kernel rejects it; with the last lines of the
            verifier's log.
    """
    code = compiled.function(name).instructions(maps)
    number = function_number(kernel_function) if kernel_function else 0
    licence = compiled.licence.encode()
    try:
        return _load(kind, name, code, licence, number)
    except OSError as error:
        reason = error.strerror
    with mmap.mmap(-1, _LOG_BYTES) as log:
        with suppress(OSError):
            return _load(kind, name, code, licence, number, log)
        lines = log[: log.find(b"\0")].decode(errors="replace").splitlines()
    summary = "; ".join([str(reason), *(line.strip() for line in lines[-_LOG_LINES:])])
    raise KernelError(f"Failed to load BPF program {name}: {summary}")


def attach_to_tracepoint(program: int, event: str) -> int:
    """Attaches a program to a tracepoint; returns the descriptor that keeps it attached.

    Args:
        program: The program's descriptor.
        event: The tracepoint, `category:name`.

    Raises:
        KernelError: The kernel does not permit it.
    """
    attributes = struct.pack(
        "<IIQQQQQI4x",
        _PERF_TYPE_TRACEPOINT,
        _PERF_ATTRIBUTES_BYTES,
        id_of(event),
        1,  # the sample period: every event
        0,
        0,
        0,
        1,
    ).ljust(_PERF_ATTRIBUTES_BYTES, b"\0")
    number = _PERF_EVENT_OPEN[os.uname().machine]
    # A program runs for the events of all CPUs, whichever one's event it is attached to.
    descriptor = int(_libc.syscall(number, attributes, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC))
    if descriptor < 0:
        raise KernelError(f"{event}: {os.strerror(ctypes.get_errno())}")
    try:
        fcntl.ioctl(descriptor, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(descriptor, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError as error:
        os.close(descriptor)
        raise KernelError(f"{event}: cannot attach: {error.strerror}") from error
    return descriptor


def attach_to_raw_tracepoint(program: int, event: str) -> int:
    """Attaches a program to a raw tracepoint; returns the descriptor that keeps it attached.

    Raises:
        KernelError: The kernel does not permit it.
    """
    try:
        return _open_link(program, event.encode())
    except OSError as error:
        raise KernelError(f"{event}: cannot attach: {error.strerror}") from error


def attach_to_function(program: int, name: str) -> int:
    """Attaches a program that `load_for_function` loaded; returns the descriptor that keeps it so.

    Args:
        program: The program's descriptor.
        name: The program's name, for messages.

    Raises:
        KernelError: The kernel does not permit it.
    """
    try:
        return _open_link(program, None)
    except OSError as error:
        raise KernelError(f"Failed to attach BPF program {name}: {_reason(error)}") from error


def check_rights() -> None:
    """Loads a program that does nothing, which is quicker than to compile one first.

    Raises:
        KernelError: The kernel does not let this process load programs.
    """
    try:
        os.close(_load(ProgramType.RAW_TRACEPOINT, "rights", _EMPTY, b"GPL"))
    except OSError as error:
        raise KernelError(f"Failed to load BPF program rights: {error.strerror}") from error


def find_obstacle(kernel_function: str, attach: bool) -> str:
    """Returns why no program can attach to a kernel function; empty if one can.

    An empty program is tried. Loading it is quick; attaching and detaching it patch the kernel.

    Args:
        kernel_function: The kernel function.
        attach: Whether to attach the program, too.

    Raises:
        KernelError: There is no BTF or no libbpf.
    """
    number = function_number(kernel_function)
    if not number:
        return "the kernel has no such function"
    try:
        program = _load(ProgramType.TRACING, "attachable", _EMPTY, b"GPL", number)
        try:
            if attach:
                os.close(_open_link(program, None))
        finally:
            os.close(program)
    except OSError as error:
        return _reason(error)
    return ""


def own_process() -> int:
    """Returns the number of this process as the kernel has it, whatever its pid namespace.

    Raises:
        KernelError: The kernel does not run a program for its loader.
    """
    try:
        program = _load(ProgramType.RAW_TRACEPOINT, "own_process", _CURRENT_PROCESS, b"GPL")
    except OSError as error:
        raise KernelError(f"own_process: {error.strerror}") from error
    attributes = bytearray(struct.pack("<I", program).ljust(_TEST_RUN_BYTES, b"\0"))
    try:
        bpf(_PROG_TEST_RUN, attributes)
    except OSError as error:
        raise KernelError(
            f"the kernel does not run a program for its loader (BPF_PROG_TEST_RUN): "
            f"{error.strerror}"
        ) from error
    finally:
        os.close(program)
    number: int = struct.unpack_from("<I", attributes, 4)[0]
    return number


def _load(
    kind: ProgramType,
    name: str,
    code: bytes,
    licence: bytes,
    function: int = 0,
    log: mmap.mmap | None = None,
) -> int:
    """Loads a program. Raises OSError."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence_text = ctypes.create_string_buffer(licence)
    log_text = (ctypes.c_char * len(log)).from_buffer(log) if log is not None else None
    packed = struct.pack(
        "<IIQQIIQII16sII36xI",
        kind,
        len(code) // INSTRUCTION_BYTES,
        ctypes.addressof(instructions),
        ctypes.addressof(licence_text),
        1 if log_text is not None else 0,
        len(log_text) if log_text is not None else 0,
        ctypes.addressof(log_text) if log_text is not None else 0,
        0,
        0,
        _name(name),
        0,
        _TRACE_FENTRY if function else 0,
        function,
    )
    attributes = bytearray(packed)
    try:
        for _ in range(_MOST_ATTEMPTS):
            try:
                return bpf(_PROG_LOAD, attributes)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
        return bpf(_PROG_LOAD, attributes)
    finally:
        del log_text  # so that the log can be unmapped


def _open_link(program: int, event: bytes | None) -> int:
    """Attaches a program to a raw tracepoint, or to its kernel function. Raises OSError."""
    name = ctypes.create_string_buffer(event) if event is not None else None
    address = ctypes.addressof(name) if name is not None else 0
    packed = struct.pack("<QI4x", address, program)
    return bpf(_RAW_TRACEPOINT_OPEN, bytearray(packed))


def _reason(error: OSError) -> str:
    """Explains why the kernel does not let a program attach to a kernel function."""
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    return {"EPERM": "not permitted (EPERM), as by a locked-down kernel"}.get(name, name)


def _name(name: str) -> bytes:
    """A name as the kernel holds it."""
    return name.encode()[:_NAME_BYTES]
