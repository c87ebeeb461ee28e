"""The probe `open`: every open(2), creat(2), openat(2) and openat2(2), successful or not."""

import os
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
# By call: whether a kernel may lack it (arm64 has neither open nor creat), and its numbers in the
# 32-bit ABIs of x86 and arm.
_CALLS = {
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
    """Records every call when it returns, and every request of io_uring when it completes."""
    entries = []
    exits = []
    for call, numbers in _CALLS.items():
        entries.append(Tracepoint(f"enter_{call}", f"syscalls:sys_enter_{call}", *numbers))
        exits.append(Tracepoint("exit_open", f"syscalls:sys_exit_{call}", *numbers))
    return BpfProgram(
        _FILES / "open.bpf.c",
        attach=(*entries, *exits, *uring_points("submitted", "completed", "overflowed")),
        defines={"LARGE_FILE": LARGE_FILE},
        canary=_open_nothing,
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Adds the names of the flags, and packs the bytes of `deleted` into Arrow's bits."""
    deleted = np.packbits(columns.fixed["deleted"], bitorder="little")
    return {
        "flag_names": map_distinct_lists(columns.fixed["flags"], flag_names, pa.binary()),
        "deleted": pa.Array.from_buffers(pa.bool_(), columns.rows, [None, pa.py_buffer(deleted)]),
    }


def _open_nothing(token: str) -> None:
    """Fails with ENOTDIR: nothing can be below a device."""
    os.close(os.open(f"/dev/null/{token}", os.O_RDONLY))
