"""The probe `execve`: every execve(2) and execveat(2), successful or not."""

import os
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
    Tracepoint,
    hookimpl,
)

from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent

infrasight_api = 1
_FILES = resources.files("infrasight_probe_execve")


@hookimpl
def schema() -> EventSchema:
    """One row per call; see execve.proto for the columns."""
    return EventSchema(ExecveEvent, _FILES / "execve_events.sql")


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records successful calls at sched_process_exec, and failed calls when they return."""
    return BpfProgram(
        _FILES / "execve.bpf.c",
        attach=(
            SystemCall("execve", "enter_execve", "failed"),
            SystemCall("execveat", "enter_execveat", "failed"),
            Tracepoint("succeeded", "sched:sched_process_exec"),
        ),
        slots=4096,
        canary=_execute_nothing,
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Splits the argument string, in which a NUL ends each argument."""
    return {"argv": columns.split("argv", 0)}


def _execute_nothing(token: str) -> None:
    """Fails with ENOTDIR: nothing can be below a device."""
    path = f"/dev/null/{token}"
    os.execv(path, [path])
