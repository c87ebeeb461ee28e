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
    SystemCall,
    hookimpl,
    map_distinct_lists,
    uring_points,
)

from infrasight_probe_open.flags import LARGE_FILE, flag_names
from infrasight_probe_open.v1.open_pb2 import OpenEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_open")
_CALLS = ("open", "creat", "openat", "openat2")


@hookimpl
def schema() -> EventSchema:
    """One row per call; see open.proto for the columns."""
    return EventSchema(OpenEvent, _FILES / "open_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records every call when it returns, and every request of io_uring when it completes."""
    calls = [SystemCall(call, f"enter_{call}", "exit_open") for call in _CALLS]
    return BpfProgram(
        _FILES / "open.bpf.c",
        attach=(*calls, *uring_points("submitted", "completed", "overflowed")),
        defines={"LARGE_FILE": LARGE_FILE},
        slots=131072,
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
