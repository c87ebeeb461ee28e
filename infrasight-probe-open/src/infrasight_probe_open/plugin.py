"""The probe `open`: files opened, by open(2), creat(2), openat(2) and openat2(2), successfully or not."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
from infrasight_core import (
    BpfProgram,
    Columns,
    EventSchema,
    Kernel,
    Tracepoint,
    hookimpl,
    map_distinct_lists,
    uring_points,
)

from infrasight_probe_open.flags import LARGE_FILE, flag_names
from infrasight_probe_open.v1.open_pb2 import OpenEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_open")
_CALLS = {  # whether a kernel may be without it (arm64 has neither open nor creat), and its numbers in the 32-bit ABIs
    "open": (True, 5, 5),
    "creat": (True, 8, 8),
    "openat": (False, 295, 322),
    "openat2": (False, 437, 437),
}


@hookimpl
def schema() -> EventSchema:
    """One row per call; see open.proto for the columns."""
    return EventSchema(OpenEvent, _FILES / "open_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Every call at its exit, every request at its completion."""
    entries = [
        Tracepoint(f"enter_{call}", f"syscalls:sys_enter_{call}", *more)
        for call, more in _CALLS.items()
    ]
    exits = [
        Tracepoint("exit_open", f"syscalls:sys_exit_{call}", *more) for call, more in _CALLS.items()
    ]
    return BpfProgram(
        _FILES / "open.bpf.c",
        attach=(*entries, *exits, *uring_points("submitted", "completed", "overflowed")),
        defines={"LARGE_FILE": LARGE_FILE},
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """The flags' names, and a byte's truth as the one bit that Arrow has for it."""
    deleted = np.packbits(columns.fixed["deleted"], bitorder="little")
    return {
        "flag_names": map_distinct_lists(columns.fixed["flags"], flag_names, pa.binary()),
        "deleted": pa.Array.from_buffers(pa.bool_(), columns.rows, [None, pa.py_buffer(deleted)]),
    }
