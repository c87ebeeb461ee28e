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
    SystemCall,
    hookimpl,
    map_distinct,
)

from infrasight_probe_chmod.v1.chmod_pb2 import ChmodEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_chmod")
_CALLS = ("chmod", "fchmod", "fchmodat", "fchmodat2")
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
    calls = [SystemCall(call, f"enter_{call}", "exit_chmod") for call in _CALLS]
    return BpfProgram(
        _FILES / "chmod.bpf.c",
        attach=(_FUNCTION, *calls),
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
