"""Loads a probe's BPF program through the loader process and keeps what keeps it running."""

import array
import json
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import structlog
from attrs import define, evolve, field, frozen

from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel import bcc_process
from infrasight_core.kernel.attach_points import (
    functions_of,
    has_tracepoint,
    present,
    tracefs_is_mounted,
    tracepoints_of,
)
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.btf import kernel_offsets
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
)
from infrasight_core.kernel.layout import layout_of
from infrasight_core.kernel.prog_info import skipped_runs
from infrasight_core.plugin.program import BpfProgram, Kernel

log = structlog.get_logger(__name__)
HEADER = "infrasight.bpf.h"
_FILTER_PATH = re.compile(r"^#define FILTER_PATH\b", re.MULTILINE)
_INCLUDE = re.compile(r'#include "(\w+\.bpf\.h)"')
LOAD_SECONDS = (
    600  # an emulated machine's verifier takes minutes over what a real one takes a second for
)
HEADER_FIELDS = (
    "cgroup.kn",
    "cgroup_subsys_state.cgroup",
    "css_set.dfl_cgrp",
    "css_set.subsys",
    "dentry.d_hash.pprev",
    "dentry.d_name.hash",
    "dentry.d_name.len",
    "dentry.d_name.name",
    "dentry.d_parent",
    "fdtable.fd",
    "fdtable.max_fds",
    "file.f_path",
    "files_struct.fdt",
    "kernfs_node.id",
    "mm_struct.exe_file",
    "mount.mnt",
    "mount.mnt_mountpoint",
    "mount.mnt_parent",
    "path.dentry",
    "path.mnt",
    "task_struct.cgroups",
    "task_struct.files",
    "task_struct.group_leader",
    "task_struct.mm",
    "task_struct.real_parent",
    "task_struct.start_boottime",
    "task_struct.tgid",
    "vfsmount.mnt_root",
)
SOCKET_FIELDS = (
    "file.f_inode",
    "file.private_data",
    "inet_sock.inet_sport",
    "inode.i_mode",
    "sock.sk_protocol",
    "sock.sk_type",
    "sock_common.skc_daddr",
    "sock_common.skc_dport",
    "sock_common.skc_family",
    "sock_common.skc_rcv_saddr",
    "sock_common.skc_v6_daddr",
    "sock_common.skc_v6_rcv_saddr",
    "socket.file",
    "socket.sk",
    "unix_address.len",
    "unix_address.name",
    "unix_sock.addr",
)


@frozen
class LoadSettings:
    """How probes are loaded.

    Attributes:
        python: A Python that has bcc.
        memory: The bytes that one probe's blocks may take, over all CPUs.
        entries: Calls of one probe that may be under way at once.
        own_work: Whether to record what this process and its children do, too.
        compat: Whether to record calls of the 32-bit ABI, which costs every call of the machine 0.3 µs.
    """

    python: Path = Path("/usr/bin/python3")
    memory: int = 64 << 20
    entries: int = 10240
    own_work: bool = True
    compat: bool = True


@define
class LoadedProbe:
    """A probe that is recording; it stops when it is closed, or when this process ends.

    Attributes:
        name: The probe.
        blocks: Its blocks, mapped.
        filter_maps: What decides in the kernel which events are recorded.
        descriptors: What keeps its programs attached.
        programs: The descriptor of each of its functions on a tracepoint; what one of another kind misses, the row says.
        functions: Its programs that hang on functions of the kernel.
        refused: Those that do not, and why.
    """

    name: str
    blocks: Blocks
    filter_maps: FilterMaps
    descriptors: list[int]
    programs: dict[str, int]
    functions: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(factory=dict)

    def skipped_runs(self) -> int:
        """Runs of its programs that the kernel has skipped; what they would have seen is not known."""
        return skipped_runs(self.programs.values())

    def detach(self) -> None:
        """Stops recording; what is in the blocks can still be read."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        """Stops recording and lets the blocks go, read or not."""
        self.detach()
        while self.programs:
            os.close(self.programs.popitem()[1])
        self.filter_maps.close()
        self.blocks.close()


def running_kernel() -> Kernel:
    """The kernel of this machine."""
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return Kernel(platform.release(), platform.machine(), int(re.split("[,-]", possible)[-1]) + 1)


def load(
    probe: str,
    program: BpfProgram,
    kernel: Kernel,
    settings: LoadSettings,
    filters: Filters = EVERYTHING,
) -> LoadedProbe:
    """Compiles, loads and attaches a program, its filters in force from the first event; takes about a second.

    Raises:
        PluginError: Of the hook `load_bpf`, with the compiler's, the verifier's or the kernel's own first words.
    """
    try:
        request = _request(
            evolve(program, attach=present(probe, program, kernel)), kernel, settings, filters
        )
        answer, descriptors = ask_loader(request, settings.python)
    except KernelError as error:
        raise PluginError(probe, "load_bpf", str(error)) from error
    map_fd, *kept = descriptors
    filter_maps = FilterMaps(kept[: len(MAPS)], answer["ours"], filters)
    try:
        layout = layout_of(answer["layout"], answer["slots"], answer["value_size"])
        blocks = Blocks(map_fd, layout, kernel.cpus)
    finally:
        os.close(map_fd)
    if answer["slots"] < program.slots:
        log.info(
            "blocks made smaller to fit the memory",
            probe=probe,
            slots=answer["slots"],
            wanted=program.slots,
        )
    programs = dict(zip(answer["programs"], kept[len(MAPS) :], strict=False))
    functions, refused = tuple(answer["functions"]), answer["refused"]
    for point in functions_of(program):
        if reason := refused.get(point.function):
            said = {"function": point.kernel_function, "reason": reason, "lack": point.lack}
            log.info("no program may hang on this function of the kernel", probe=probe, **said)
    attached = kept[len(MAPS) + len(programs) :]
    return LoadedProbe(probe, blocks, filter_maps, attached, programs, functions, refused)


def refused_functions(names: Iterable[str], python: Path) -> dict[str, str]:
    """Which of the kernel's functions let no program hang on them, and why: tried, with one that does nothing.

    Raises:
        KernelError: The loader cannot be run.
    """
    headers = str(resources.files("infrasight_core") / "bpf")
    refused: dict[str, str] = ask_loader({"try": list(names), "headers": headers}, python)[0][
        "refused"
    ]
    return refused


def _request(
    program: BpfProgram, kernel: Kernel, settings: LoadSettings, filters: Filters = EVERYTHING
) -> dict[str, Any]:
    check_program(program, filters)
    sockets = (
        SOCKET_FIELDS
        if '#include "socket.bpf.h"' in program.source.read_text(encoding="utf-8")
        else ()
    )
    offsets = kernel_offsets(
        (*HEADER_FIELDS, *sockets, *program.kernel_fields), program.optional_fields
    )
    defines = {f"OFFSET_{name.replace('.', '__')}": at for name, at in offsets.items()}
    defines |= {
        "CPUS": kernel.cpus,
        "ENTRIES": settings.entries,
        "ENTRY_SLOTS": 1 << (settings.entries - 1).bit_length(),
        **compat_defines(kernel.machine),
        **cgroup_defines(),
        **program.defines,
    }
    defines |= {"FILTER_VALUES": 2 * VALUES, "FILTER_PREFIXES": 2 * PREFIXES}
    bpf = resources.files("infrasight_core") / "bpf"
    return {
        "source": inlined(
            program.source, {header.name: header for header in (*bpf.iterdir(), *program.headers)}
        ),
        "cflags": [*(f"-D{name}={value}" for name, value in defines.items()), "-Wno-everything"],
        "attach": [
            [
                point.function,
                "" if point.optional and not has_tracepoint(point.event) else point.event,
            ]
            for point in tracepoints_of(program)
        ],
        "functions": [
            [point.function, point.kernel_function, point.optional]
            for point in functions_of(program)
        ],
        "headers": str(bpf),
        "slots": program.slots,
        "cpus": kernel.cpus,
        "memory": settings.memory,
        "filter_maps": MAPS,
        "filters": [[name, key.hex(), value.hex()] for name, key, value in filters.writes(0)],
        "filter_state": filters.state(0, NOBODY).hex(),
        "own_work": settings.own_work,
    }


def check_program(program: BpfProgram, filters: Filters) -> None:
    """Raises KernelError for what can be seen to be wrong before it is compiled."""
    if program.slots < 64 or program.slots & (program.slots - 1):
        raise KernelError(f"slots = {program.slots} is not a power of two of at least 64")
    source = program.source.read_text(encoding="utf-8")
    if f'#include "{HEADER}"' not in source:
        raise KernelError(f"{program.source.name} does not include {HEADER}")
    if filters.has_paths and not _FILTER_PATH.search(source):
        raise KernelError(
            "include_path, exclude_path: its events have no path to filter by (no FILTER_PATH in its C)"
        )


def inlined(source: Path | Traversable, headers: Mapping[str, Path | Traversable]) -> str:
    """The source with the headers in place of their includes: BCC rewrites map accesses in the main file alone."""
    lines = [f'#line 1 "{source.name}"']
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if match := _INCLUDE.fullmatch(line):
            if match[1] not in headers:
                raise KernelError(
                    f"{source.name}:{number}: {match[1]} is neither the core's nor among the program's headers"
                )
            lines += [inlined(headers[match[1]], headers), f'#line {number + 1} "{source.name}"']
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def ask_loader(request: dict[str, Any], python: Path) -> tuple[dict[str, Any], list[int]]:
    """Has the loader do what is asked (see bcc_process.py); returns its answer and the descriptors. Raises KernelError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [str(python), "-E", "-s", bcc_process.__file__, str(theirs.fileno())]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(request).encode(),
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=LOAD_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise KernelError(
                f"there is no {python}: set `loader_python` to a Python that has bcc"
            ) from error
        except OSError as error:
            raise KernelError(
                f"cannot run {python}: {error.strerror}; "
                "set `loader_python` to a Python that has bcc"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise KernelError(f"the loader took more than {LOAD_SECONDS} s") from error
        theirs.close()
        message, ancillary, *_ = ours.recvmsg(
            bcc_process.MESSAGE_BYTES, socket.CMSG_SPACE(253 * array.array("i").itemsize)
        )
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    said = done.stdout.decode(errors="replace")
    if not message:
        raise KernelError(f"the loader ended with status {done.returncode}: {_first_words(said)}")
    answer: dict[str, Any] = json.loads(message)
    if "error" in answer:
        raise KernelError(
            _explained(
                f"{answer['error']}; {said}"
                if (said := _first_words(said))
                else str(answer["error"])
            )
        )
    return answer, list(descriptors)


def _explained(error: str) -> str:
    """What to do about the commonest rejections."""
    if not tracefs_is_mounted():
        return "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing; see `infrasight doctor`"
    if "Operation not permitted" in error:
        return (
            "the kernel does not permit it: run as root, or with CAP_BPF and CAP_PERFMON; "
            "in a container its seccomp profile may refuse bpf and perf_event_open; see `infrasight doctor`"
        )
    return error


def _first_words(output: str) -> str:
    """The lines that tell: compiler errors, else the last lines, in one."""
    lines = [
        line.strip() for line in output.splitlines() if line.strip() and "modprobe" not in line
    ]
    errors = [line for line in lines if "error:" in line]
    return "; ".join((errors or lines[-3:])[:3])
