"""Loads a probe's program into the kernel: from its C to a LoadedProbe with mapped blocks.

The C is prepared by `c_source.py` and compiled, loaded and attached by `bcc_process.py` in a child
process. From then on the program writes blocks, which `block.py` drains.
"""

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import structlog
from attrs import define, evolve, field, frozen

from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel.attach_points import (
    available_points,
    functions_of,
    has_tracepoint,
    tracepoints_of,
)
from infrasight_core.kernel.bcc_client import run_bcc
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.btf import kernel_offsets
from infrasight_core.kernel.c_source import WARNING_FLAGS, inline_headers, kernel_fields
from infrasight_core.kernel.cgroups import cgroup_defines
from infrasight_core.kernel.compat import compat_defines
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
from infrasight_core.plugin.program import BpfProgram, Kernel

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
        compat: Whether to record calls of the 32-bit ABI, which costs every system call of the
            machine 0.3 µs.
    """

    python: Path = Path("/usr/bin/python3")
    memory: int = 64 << 20
    entries: int = 10240
    own_work: bool = True
    compat: bool = True


@define
class LoadedProbe:
    """A probe that is recording. It stops when it is closed or when this process ends.

    Attributes:
        name: The probe.
        blocks: Its blocks, mapped.
        filter_maps: The maps that decide in the kernel which events are recorded.
        descriptors: The descriptors that keep its programs attached.
        programs: The descriptor of each of its programs on a tracepoint. Programs on kernel
            functions are not among them: where one of them does not run, the row is flagged.
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
    functions: tuple[str, ...] = ()
    unattached: Mapping[str, str] = field(factory=dict)
    warnings: tuple[str, ...] = ()
    tracepoints: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, Link], ...] = ()
    canary: Callable[[str], None] | None = None

    def skipped_runs(self) -> int:
        """Counts the runs of its programs that the kernel skipped, and that recorded nothing."""
        return skipped_runs(self.programs.values())

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
    """Compiles, loads and attaches a program, which takes about a second.

    The filters are active from the first event. Warnings of the compiler are logged, each with its
    file and line.

    Raises:
        PluginError: Of the hook `load_bpf`, with the first errors of the compiler, the verifier or
            the kernel.
    """
    try:
        points = available_points(probe, program, kernel)
        request = _request(evolve(program, attach=points), kernel, settings, filters)
        answer = run_bcc(request, settings.python)
    except KernelError as error:
        raise PluginError(probe, "load_bpf", str(error)) from error
    values = answer.values
    blocks_map, *rest = answer.descriptors
    filter_descriptors = rest[: len(MAPS)]
    program_descriptors = rest[len(MAPS) : len(MAPS) + len(values["programs"])]
    attachments = rest[len(MAPS) + len(values["programs"]) :]
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
        programs=dict(zip(values["programs"], program_descriptors, strict=True)),
        functions=tuple(values["functions"]),
        unattached=values["unattached"],
        warnings=answer.warnings,
        tracepoints=tuple((event, name) for name, event in request["attach"] if event),
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
    program: BpfProgram, kernel: Kernel, settings: LoadSettings, filters: Filters = EVERYTHING
) -> dict[str, Any]:
    """Makes the request for bcc_process.py, which documents it."""
    check_program(program, filters)
    source = inline_headers(program.source, _headers(program.headers))
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
    attach = []
    for point in tracepoints_of(program):
        is_absent = point.optional and not has_tracepoint(point.event)
        attach.append([point.function, "" if is_absent else point.event])
    functions = [
        [point.function, point.kernel_function, point.optional] for point in functions_of(program)
    ]
    return {
        "source": source,
        "cflags": compiler_flags(defines),
        "attach": attach,
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


def core_source(name: str) -> str:
    """Returns a C file of the core's own with its headers inlined."""
    return inline_headers(HEADERS_FOLDER / name, _headers(()))


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
