"""The probe `chmod`: every chmod(2), fchmod(2), fchmodat(2) and fchmodat2(2), successful or not."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
from infrasight_core import (
    BpfProgram,
    Columns,
    EventSchema,
    Kernel,
    KernelFunction,
    Tracepoint,
    hookimpl,
    map_distinct,
)

from infrasight_probe_chmod.v1.chmod_pb2 import ChmodEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_chmod")
# By call: whether a kernel may lack it (arm64 has no chmod, fchmodat2 came with Linux 6.6), and its
# numbers in the 32-bit ABIs of x86 and arm.
_CALLS = {
    "chmod": (True, 15, 15),
    "fchmod": (False, 94, 94),
    "fchmodat": (False, 306, 333),
    "fchmodat2": (True, 452, 452),
}
_FUNCTION = KernelFunction(
    "path_chmod",
    "security_path_chmod",
    optional=True,
    lack="a chmod by path has no old_mode, and its resolved_path is the given path appended to the "
    "kernel's directory: it may contain symbolic links, and a thread may have changed it "
    "(quality: resolved_path_user_memory, old_mode_missing)",
)
_PERMISSIONS = 0o7777


@hookimpl
def schema() -> EventSchema:
    """One row per call; see chmod.proto for the columns."""
    return EventSchema(ChmodEvent, _FILES / "chmod_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records every call when it returns."""
    entries = []
    exits = []
    for call, numbers in _CALLS.items():
        entries.append(Tracepoint(f"enter_{call}", f"syscalls:sys_enter_{call}", *numbers))
        exits.append(Tracepoint("exit_chmod", f"syscalls:sys_exit_{call}", *numbers))
    return BpfProgram(
        _FILES / "chmod.bpf.c",
        attach=(_FUNCTION, *entries, *exits),
        headers=(_FILES / "changed.bpf.h",),
        slots=8192,
        canary=_change_nothing,
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Adds the mode in octal notation."""
    return {"mode_text": map_distinct(columns.fixed["mode"], _octal, pa.binary())}


def _octal(modes: list[int]) -> list[bytes]:
    return [b"%04o" % (mode & _PERMISSIONS) for mode in modes]


def _change_nothing(token: str) -> None:
    """Fails with ENOTDIR: nothing can be below a device."""
    Path(f"/dev/null/{token}").chmod(0)
