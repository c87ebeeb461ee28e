"""The probe `accept`: every accept(2) and accept4(2), successful or not."""

import socket
from collections.abc import Mapping
from importlib import resources
from typing import Any

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

from infrasight_probe_net.names import names_of
from infrasight_probe_net.v1.accept_pb2 import AcceptEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_net")
_FLAGS = ((b"SOCK_NONBLOCK", 0o4000), (b"SOCK_CLOEXEC", 0o2000000))


@hookimpl
def schema() -> EventSchema:
    """One row per call or request; see accept.proto for the columns."""
    return EventSchema(AcceptEvent, _FILES / "accept_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records every call when it returns, and every request of io_uring when it completes."""
    return BpfProgram(
        _FILES / "accept.bpf.c",
        attach=(
            SystemCall("accept", "enter_accept", "exit_accept"),
            SystemCall("accept4", "enter_accept4", "exit_accept"),
            *uring_points("submitted", "completed", "overflowed"),
        ),
        canary=_accept_nothing,
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Adds the names of families, types, protocols and flags."""
    return {
        **names_of(columns),
        "flag_names": map_distinct_lists(columns.fixed["flags"], _flag_names, pa.binary()),
    }


def _accept_nothing(token: str) -> None:
    """Fails with EAGAIN: nobody connects to this abstract name."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{token}")
        listener.listen(1)
        listener.setblocking(False)
        listener.accept()


def _flag_names(values: list[int]) -> list[list[bytes]]:
    return [_names(value) for value in values]


def _names(value: int) -> list[bytes]:
    names = []
    unnamed = value
    for name, bits in _FLAGS:
        if value & bits:
            names.append(name)
            unnamed &= ~bits
    return [*names, b"%#x" % unnamed] if unnamed else names
