"""The probe `connect`: every connect(2), successful or not, and later outcomes of TCP attempts.

A non-blocking call returns before its attempt has ended; then the outcome is a second row.
"""

import socket
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
    Tracepoint,
    boot_time_ns,
    hookimpl,
    map_distinct,
    uring_points,
)

from infrasight_probe_net.names import names_of
from infrasight_probe_net.v1.connect_pb2 import ConnectEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_net")
_STAGES = (b"call", b"outcome")


@hookimpl
def schema() -> EventSchema:
    """One row per call or request, and one per outcome; see connect.proto for the columns."""
    return EventSchema(ConnectEvent, _FILES / "connect_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records calls when they return and requests when they complete.

    A change of a TCP socket's state, or its end, is an outcome.
    """
    return BpfProgram(
        _FILES / "connect.bpf.c",
        attach=(
            SystemCall("connect", "enter_connect", "exit_connect"),
            *uring_points("submitted", "completed", "overflowed"),
            Tracepoint("state_changed", "sock:inet_sock_set_state"),
            Tracepoint("destroyed", "tcp:tcp_destroy_sock"),
        ),
        defines={"BOOT_TIME": boot_time_ns()},
        headers=(_FILES / "attempt.bpf.h",),
        canary=_connect_to_nothing,
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Adds the names of numbers, and packs the bytes of `in_progress` into Arrow's bits."""
    in_progress = np.packbits(columns.fixed["in_progress"], bitorder="little")
    return {
        **names_of(columns),
        "stage": map_distinct(
            columns.fixed["stage"], lambda stages: [_STAGES[stage] for stage in stages], pa.binary()
        ),
        "in_progress": pa.Array.from_buffers(
            pa.bool_(), columns.rows, [None, pa.py_buffer(in_progress)]
        ),
    }


def _connect_to_nothing(token: str) -> None:
    """Fails with ECONNREFUSED: no socket has this abstract name."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{token}")
