"""Loads a probe's program into the kernel: from its C to a LoadedProbe with mapped blocks.

The C is prepared by `c_source.py` and compiled, loaded and attached by `bcc_process.py` in a child
process. From then on its programs on tracepoints write blocks, which `block.py` drains. Those for
system calls do so once the dispatcher jumps to them (`dispatcher.py`).
"""

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from attrs import define, field, frozen

from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel.attach_points import available_tracepoints, calls_of, functions_of
from infrasight_core.kernel.bcc_client import run_bcc
from infrasight_core.kernel.bcc_process import NEXT_MAPS
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.kernel.c_source import (
    WARNING_FLAGS,
    inline_headers,
    kernel_fields,
    with_programs,
)
from infrasight_core.kernel.cgroups import cgroup_defines
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
from infrasight_core.kernel.system_calls import compat_defines
from infrasight_core.kernel.written_map import WrittenMap
from infrasight_core.plugin.program import BpfProgram, Kernel, Tracepoint

log = structlog.get_logger(__name__)
HEADER = "infrasight.bpf.h"
HEADERS_FOLDER = resources.files("infrasight_core") / "bpf"
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
        own_work: Whether to record the work of this process and of the loaders that it starts, too.
    """

    python: Path = Path("/usr/bin/python3")
    memory: int = 64 << 20
    entries: int = 10240
    own_work: bool = True


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
    """Compiles and loads a program and attaches it to its tracepoints; takes about a second.

    `Dispatcher.attach` attaches it to its system calls. The filters are active from the first
    event. Warnings of the compiler are logged, each with its file and line.

    Raises:
        PluginError: Of the hook `load_bpf`, with the first errors of the compiler, the verifier or
            the kernel.
    """
    try:
        points = available_tracepoints(probe, program)
        request = _request(program, points, kernel, settings, filters)
        answer = run_bcc(request, settings.python)
    except KernelError as error:
        raise PluginError(probe, "load_bpf", str(error)) from error
    values = answer.values
    descriptors = iter(answer.descriptors)
    blocks_map = next(descriptors)
    filter_descriptors = list(islice(descriptors, len(MAPS)))
    next_maps = {name: WrittenMap(name, next(descriptors), {}) for name in NEXT_MAPS}
    programs = {name: next(descriptors) for name in values["programs"]}
    attachments = list(descriptors)
    kernel_functions = {point.function: point.kernel_function for point in functions_of(program)}
    linked = zip(values["functions"], attachments, strict=False)
    links = tuple((kernel_functions[name], link_of(descriptor)) for name, descriptor in linked)
    filter_maps = FilterMaps(filter_descriptors, values["agent_process"], filters)
    try:
        layout = layout_of(values["layout"], values["slots"], values["value_size"])
        blocks = Blocks(blocks_map, layout, kernel.cpus)
    finally:
        os.close(blocks_map)
    loaded = LoadedProbe(
        name=probe,
        blocks=blocks,
        filter_maps=filter_maps,
        descriptors=attachments,
        programs=programs,
        next_maps=next_maps,
        functions=tuple(values["functions"]),
        unattached=values["unattached"],
        warnings=answer.warnings,
        tracepoints=tuple((point.event, point.function) for point in points),
        links=links,
        canary=program.canary,
    )
    _log_shortcomings(loaded, program)
    return loaded


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


def unattachable_functions(names: Iterable[str], python: Path) -> dict[str, str]:
    """Tries to attach an empty program; returns the functions that do not allow it, and why.

    Raises:
        KernelError: The loader cannot be run.
    """
    request = {"try": list(names), "headers": str(HEADERS_FOLDER)}
    reasons: dict[str, str] = run_bcc(request, python).values["unattached"]
    return reasons


def _request(
    program: BpfProgram,
    points: Iterable[Tracepoint],
    kernel: Kernel,
    settings: LoadSettings,
    filters: Filters = EVERYTHING,
) -> dict[str, Any]:
    """Makes the request for bcc_process.py, which documents it."""
    check_program(program, filters)
    attach = [[point.function, point.event] for point in points]
    enter = dict.fromkeys(call.enter for call in calls_of(program) if call.enter)
    exit_ = dict.fromkeys(call.exit for call in calls_of(program) if call.exit)
    source = with_programs(
        inline_headers(program.source, _headers(program.headers)),
        {name: "TRACEPOINT_PROGRAM" for name, _ in attach}
        | dict.fromkeys(enter, "ENTER_PROGRAM")
        | dict.fromkeys(exit_, "EXIT_PROGRAM"),
    )
    defines: dict[str, int] = {
        "CPUS": kernel.cpus,
        "ENTRIES": settings.entries,
        "ENTRY_SLOTS": 1 << (settings.entries - 1).bit_length(),
        "FILTER_VALUES": 2 * VALUES,
        "FILTER_PREFIXES": 2 * PREFIXES,
        **canary_defines(),
        **compat_defines(kernel.machine),
        **cgroup_defines(),
        **_offset_defines(source),
        **program.defines,
    }
    functions = [
        [point.function, point.kernel_function, point.optional] for point in functions_of(program)
    ]
    return {
        "source": source,
        "cflags": compiler_flags(defines),
        "attach": attach,
        "calls": [*enter, *exit_],
        "functions": functions,
        "headers": str(HEADERS_FOLDER),
        "slots": program.slots,
        "cpus": kernel.cpus,
        "memory": settings.memory,
        "filter_maps": MAPS,
        "filters": [[name, key.hex(), value.hex()] for name, key, value in filters.writes(0)],
        "filter_state": filters.state(0, NOBODY).hex(),
        "own_work": settings.own_work,
    }


def compiler_flags(defines: Mapping[str, int]) -> list[str]:
    """Returns the flags for a program's C."""
    return [*(f"-D{name}={value}" for name, value in defines.items()), *WARNING_FLAGS]


def core_program(name: str, defines: Mapping[str, int]) -> dict[str, Any]:
    """Returns the part of a request for a C file of the core's own, a program without blocks.

    Raises:
        KernelError: The kernel lacks a field that is not optional.
    """
    source = inline_headers(HEADERS_FOLDER / name, _headers(()))
    return {
        "source": source,
        "cflags": compiler_flags({**defines, **_offset_defines(source)}),
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
