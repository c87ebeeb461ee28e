"""Loads a probe's program into the kernel: from its C to a LoadedProbe with mapped blocks.

The C is prepared by `c_source.py`. A child process compiles it (`compiler.py`), or it was compiled
before and is in the cache. Its maps and programs are created and attached here. From then on its
programs on tracepoints write blocks, which `block.py` drains. Those for system calls do so once the
dispatcher jumps to them (`dispatcher.py`).
"""

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import structlog
from attrs import define, field, frozen

from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel.attach_points import available_tracepoints, calls_of, functions_of
from infrasight_core.kernel.bcc_client import explain
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.kernel.c_source import (
    WARNING_FLAGS,
    inline_headers,
    kernel_fields,
    with_programs,
)
from infrasight_core.kernel.cgroups import cgroup_defines
from infrasight_core.kernel.compiled_program import CompiledProgram
from infrasight_core.kernel.compiler import compile_program
from infrasight_core.kernel.filters import (
    EVERYTHING,
    MAPS,
    NOBODY,
    PREFIXES,
    VALUES,
    FilterMaps,
    Filters,
    canary_defines,
)
from infrasight_core.kernel.layout import layout_of
from infrasight_core.kernel.prog_info import (
    Attachment,
    Link,
    detached_events,
    is_attached,
    link_of,
    skipped_runs,
)
from infrasight_core.kernel.program_cache import ProgramCache
from infrasight_core.kernel.programs import (
    KernelObjects,
    ProgramType,
    check_rights,
    find_obstacle,
    own_process,
)
from infrasight_core.kernel.store_files import FURTHER_FILES
from infrasight_core.kernel.system_calls import compat_defines
from infrasight_core.kernel.written_map import WrittenMap
from infrasight_core.plugin.program import BpfProgram, Kernel, KernelFunction, Tracepoint

log = structlog.get_logger(__name__)
HEADER = "infrasight.bpf.h"
HEADERS_FOLDER = resources.files("infrasight_core") / "bpf"
NEXT_MAPS = ("next_enter", "next_exit")
OPTIMIZATIONS = ("-Os", "-O2")
MOST_SLOTS = 1 << 20  # more take minutes to compile
ABSENT = -1  # the offset of an optional field that the kernel does not have
_FILTER_PATH = re.compile(r"^#define FILTER_PATH\b", re.MULTILINE)


@frozen
class LoadSettings:
    """How probes are loaded.

    Attributes:
        python: A Python that has bcc.
        memory: The bytes that the blocks of one probe may take, over all CPUs.
        entries: The calls of one probe that may be in progress at once.
        own_work: Whether to record the work of this process and of the compilers that it starts,
            too.
        cache: Where compiled programs are stored; None to compile at every load.
    """

    python: Path = Path("/usr/bin/python3")
    memory: int = 64 << 20
    entries: int = 10240
    own_work: bool = True
    cache: ProgramCache | None = None


@define
class LoadedProbe:
    """A probe that is recording. It stops when it is closed or when this process ends.

    Attributes:
        name: The probe.
        blocks: Its blocks, mapped.
        filter_maps: The maps that decide in the kernel which events are recorded.
        descriptors: The descriptors that keep its programs attached.
        programs: The descriptor of each of its programs, by function. Programs on kernel functions
            are not among them: where one of them does not run, the row is flagged.
        next_maps: Its arrays of the next handlers, `next_enter` and `next_exit`. The dispatcher
            puts the program of another probe that handles the call there.
        functions: Its programs that are attached to kernel functions.
        unattached: Those that are not, and why.
        warnings: The compiler's warnings about its C, each as `file:line: warning: …`.
        tracepoints: The tracepoint and the program of each of the last `descriptors`.
        links: The kernel function and the attachment of each of the first `descriptors`.
        canary: Causes an event on purpose; see `BpfProgram`.
    """

    name: str
    blocks: Blocks
    filter_maps: FilterMaps
    descriptors: list[int]
    programs: dict[str, int]
    next_maps: dict[str, WrittenMap]
    functions: tuple[str, ...] = ()
    unattached: Mapping[str, str] = field(factory=dict)
    warnings: tuple[str, ...] = ()
    tracepoints: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, Link], ...] = ()
    canary: Callable[[str], None] | None = None

    def skipped_runs(self) -> int:
        """Counts the runs of its programs that were skipped, and that recorded nothing.

        The kernel skipped them, or the program itself, because another one was running on that CPU.
        """
        return skipped_runs(self.programs.values()) + self.blocks.skipped_runs()

    def detached(self) -> list[str]:
        """Returns the tracepoints and kernel functions from which a program is detached.

        Tracepoints are not among them if this process may not ask the kernel. Empty if the probe
        itself was detached.
        """
        descriptors = list(self.descriptors)
        linked = zip(self.links, descriptors, strict=False)
        functions = [
            name for (name, link), descriptor in linked if not is_attached(link, descriptor)
        ]
        traced = zip(self.tracepoints, descriptors[-len(self.tracepoints) :], strict=False)
        attachments = [
            Attachment(event, self.programs[function], descriptor)
            for (event, function), descriptor in traced
        ]
        return functions + detached_events(attachments)

    def detach(self) -> None:
        """Stops recording; the blocks can still be drained."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        """Stops recording and releases the blocks with all that is in them."""
        self.detach()
        while self.programs:
            os.close(self.programs.popitem()[1])
        while self.next_maps:
            self.next_maps.popitem()[1].close()
        self.filter_maps.close()
        self.blocks.close()


def running_kernel() -> Kernel:
    """Returns the kernel of this machine."""
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
    last_cpu = int(re.split("[,-]", possible)[-1])
    return Kernel(platform.release(), platform.machine(), last_cpu + 1)


def load(
    probe: str,
    program: BpfProgram,
    kernel: Kernel,
    settings: LoadSettings,
    filters: Filters = EVERYTHING,
) -> LoadedProbe:
    """Compiles and loads a program and attaches it to its tracepoints.

    Compiling takes about a second, unless the program is in the cache. `Dispatcher.attach` attaches
    the probe to its system calls. The filters are active from the first event. Warnings of the
    compiler are logged, each with its file and line.

    Raises:
        PluginError: Of the hook `load_bpf`, with the first errors of the compiler, the verifier or
            the kernel.
    """
    try:
        points = available_tracepoints(probe, program)
        check_rights()
        request = _request(program, points, kernel, settings, filters)
        verified = _verify(program, points, request, settings)
        with closing(verified.objects):
            loaded = _attach(probe, program, points, verified, kernel, settings, filters)
    except KernelError as error:
        raise PluginError(probe, "load_bpf", explain(str(error))) from error
    _log_shortcomings(loaded, program)
    return loaded


@frozen
class _Verified:
    """A program that the kernel has accepted.

    Attributes:
        compiled: What the compiler made.
        objects: Its maps and programs, and the attachments of `functions`.
        functions: The functions that are attached to kernel functions.
        unattached: Those that are not, and why.
    """

    compiled: CompiledProgram
    objects: KernelObjects
    functions: tuple[str, ...]
    unattached: dict[str, str]


def _verify(
    program: BpfProgram,
    points: Sequence[Tracepoint],
    request: Mapping[str, Any],
    settings: LoadSettings,
) -> _Verified:
    """Compiles a program and has the kernel verify it.

    If the verifier rejects the code of one optimization level, the other is tried. If it rejects
    both, the optional programs on kernel functions are left out. Kernels before 6.2 reject a loop
    whose last instruction falls through into its first ("back-edge"); whether LLVM emits such a
    loop depends on its version and on the optimization.

    Raises:
        KernelError: It cannot be compiled, or the kernel rejects it.
    """
    unattached: dict[str, str] = {}
    for point in functions_of(program):
        reason = find_obstacle(point.kernel_function, attach=False)
        if reason and not point.optional:
            raise KernelError(
                f"{point.function}: cannot attach to kernel function {point.kernel_function}: "
                f"{reason}"
            )
        if reason:
            unattached[point.function] = reason
    possible = [each for each in functions_of(program) if each.function not in unattached]
    required = [each for each in possible if not each.optional]
    for wanted in (possible, required):
        for optimization in OPTIMIZATIONS:
            names = tuple(point.function for point in wanted)
            flags = [optimization, *(f"-DHAVE_{name}" for name in names)]
            attempt = {**request, "cflags": [*request["cflags"], *flags]}
            try:
                compiled = compile_program(attempt, settings.python, settings.cache)
                objects = _load_objects(compiled, program, points, wanted)
                return _Verified(compiled, objects, names, unattached)
            except KernelError as error:
                failure = error
        if wanted == required:
            break
        unattached |= {each.function: str(failure) for each in wanted if each.optional}
    raise failure


def _load_objects(
    compiled: CompiledProgram,
    program: BpfProgram,
    points: Iterable[Tracepoint],
    functions: Iterable[KernelFunction],
) -> KernelObjects:
    """Creates the maps, loads the programs, and attaches those on kernel functions.

    Raises:
        KernelError: The kernel rejects one.
    """
    with ExitStack() as undone:
        objects = KernelObjects.create(compiled)
        undone.callback(objects.close)
        for point in points:
            name = program_of(point.function)
            objects.load(point.function, ProgramType.TRACEPOINT, compiled, name)
        for call in calls_of(program):
            for function in call.functions:
                name = program_of(function)
                objects.load(function, ProgramType.RAW_TRACEPOINT, compiled, name)
        for each in functions:
            objects.attach_to_function(compiled, each.function, each.kernel_function)
        undone.pop_all()
        return objects


def _attach(
    probe: str,
    program: BpfProgram,
    points: Sequence[Tracepoint],
    verified: _Verified,
    kernel: Kernel,
    settings: LoadSettings,
    filters: Filters,
) -> LoadedProbe:
    """Activates the filters, maps the blocks and attaches the programs to their tracepoints.

    Raises:
        KernelError: The kernel does not permit it.
    """
    objects = verified.objects
    compiled = verified.compiled
    agent_process = NOBODY if settings.own_work else own_process()
    kernel_functions = {point.function: point.kernel_function for point in functions_of(program)}
    links = tuple(
        (kernel_functions[name], link_of(descriptor))
        for name, descriptor in zip(verified.functions, objects.attachments, strict=True)
    )
    layout = layout_of(compiled.layout, compiled.slots, compiled.value_bytes("blocks"))
    with ExitStack() as undone:
        filter_maps = FilterMaps([objects.take_map(name) for name in MAPS], agent_process, filters)
        undone.callback(filter_maps.close)
        blocks = Blocks(objects.maps["blocks"], layout, kernel.cpus)
        undone.callback(blocks.close)
        for point in points:
            objects.attach(point.function, point.event)
        undone.pop_all()
    return LoadedProbe(
        name=probe,
        blocks=blocks,
        filter_maps=filter_maps,
        descriptors=objects.take_attachments(),
        programs=objects.take_programs(),
        next_maps={name: WrittenMap(name, objects.take_map(name)) for name in NEXT_MAPS},
        functions=verified.functions,
        unattached=verified.unattached,
        warnings=compiled.warnings,
        tracepoints=tuple((point.event, point.function) for point in points),
        links=links,
        canary=program.canary,
    )


def _log_shortcomings(loaded: LoadedProbe, program: BpfProgram) -> None:
    for warning in loaded.warnings:
        log.warning("the compiler warns about a probe's C", probe=loaded.name, warning=warning)
    slots = loaded.blocks.layout.slots
    if slots < program.slots:
        log.info(
            "blocks made smaller to fit the memory",
            probe=loaded.name,
            slots=slots,
            wanted=program.slots,
        )
    for point in functions_of(program):
        if reason := loaded.unattached.get(point.function):
            log.info(
                "cannot attach to kernel function",
                probe=loaded.name,
                function=point.kernel_function,
                reason=reason,
                lack=point.lack,
            )


def unattachable_functions(names: Iterable[str]) -> dict[str, str]:
    """Tries to attach an empty program; returns the functions that do not allow it, and why.

    Raises:
        KernelError: There is no BTF or no libbpf.
    """
    reasons = {name: find_obstacle(name, attach=True) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _request(
    program: BpfProgram,
    points: Iterable[Tracepoint],
    kernel: Kernel,
    settings: LoadSettings,
    filters: Filters = EVERYTHING,
) -> dict[str, Any]:
    """Makes the request for bcc_process.py, which documents it."""
    check_program(program, filters)
    enter = dict.fromkeys(call.enter for call in calls_of(program) if call.enter)
    exit_ = dict.fromkeys(call.exit for call in calls_of(program) if call.exit)
    source = with_programs(
        inline_headers(program.source, _headers(program.headers)),
        {point.function: "TRACEPOINT_PROGRAM" for point in points}
        | dict.fromkeys(enter, "ENTER_PROGRAM")
        | dict.fromkeys(exit_, "EXIT_PROGRAM"),
    )
    defines: dict[str, int] = {
        "CPUS": kernel.cpus,
        "ENTRIES": settings.entries,
        "ENTRY_SLOTS": 1 << (settings.entries - 1).bit_length(),
        "FILTER_VALUES": 2 * VALUES,
        "FILTER_PREFIXES": 2 * PREFIXES + 1 + len(FURTHER_FILES),  # the store's
        **canary_defines(),
        **compat_defines(kernel.machine),
        **cgroup_defines(),
        **_offset_defines(source),
        **program.defines,
    }
    return {
        "source": source,
        "cflags": compiler_flags(defines),
        "headers": str(HEADERS_FOLDER),
        "slots": program.slots,
        "cpus": kernel.cpus,
        "memory": settings.memory,
    }


def program_of(function: str) -> str:
    """The name of the program around a function: see handler.bpf.h."""
    return f"{function}__run"


def compiler_flags(defines: Mapping[str, int]) -> list[str]:
    """Returns the flags for a program's C."""
    return [*(f"-D{name}={value}" for name, value in defines.items()), *WARNING_FLAGS]


def core_program(name: str, defines: Mapping[str, int]) -> dict[str, Any]:
    """Returns the request for a C file of the core's own, a program without blocks.

    Raises:
        KernelError: The kernel lacks a field that is not optional.
    """
    source = inline_headers(HEADERS_FOLDER / name, _headers(()))
    return {
        "source": source,
        "cflags": [*compiler_flags({**defines, **_offset_defines(source)}), OPTIMIZATIONS[0]],
        "headers": str(HEADERS_FOLDER),
    }


def _headers(own: Iterable[Path | Traversable]) -> dict[str, Path | Traversable]:
    """The headers that a program may include, by name."""
    return {header.name: header for header in (*HEADERS_FOLDER.iterdir(), *own)}


def _offset_defines(source: str) -> dict[str, int]:
    """Defines the offset of each kernel field that a C text uses.

    Raises:
        KernelError: The kernel lacks a field that is not optional; with the line that uses it.
    """
    fields = kernel_fields(source)
    offsets = kernel_offsets(kernel_field.name for kernel_field in fields)
    for kernel_field in fields:
        if not kernel_field.optional and kernel_field.name in offsets.missing:
            raise KernelError(
                f"{kernel_field.place}: kernel field {kernel_field.name}: "
                f"{offsets.missing[kernel_field.name]}; if some kernels lack it, "
                "declare it with OPTIONAL_FIELDS"
            )
    return {
        kernel_field.define: offsets.found.get(kernel_field.name, ABSENT) for kernel_field in fields
    }


def check_program(program: BpfProgram, filters: Filters) -> None:
    """Raises KernelError for mistakes that show before the program is compiled."""
    if program.slots < 64 or program.slots & (program.slots - 1):
        raise KernelError(f"slots = {program.slots} is not a power of two of at least 64")
    if program.slots > MOST_SLOTS:
        raise KernelError(f"slots = {program.slots} is more than {MOST_SLOTS}")
    source = program.source.read_text(encoding="utf-8")
    if f'#include "{HEADER}"' not in source:
        raise KernelError(f"{program.source.name} does not include {HEADER}")
    if filters.has_paths and not _FILTER_PATH.search(source):
        raise KernelError(
            "include_path, exclude_path: its events have no path to filter by "
            "(its C defines no FILTER_PATH)"
        )
