"""The enricher `executions`: fills `exe` of every probe's rows with what the kernel said at the process's execution."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import pyarrow as pa
from infrasight_core import (
    BpfProgram,
    Columns,
    ConfigError,
    EnrichContext,
    Kernel,
    Tracepoint,
    hookimpl,
    map_distinct,
)

infrasight_api = 1
known: dict[int, bytes] = {}  # by pid; a real one would be bounded
calls: list[int] = []  # the rows that each call of `decode` brought


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """The option `slots` sets the size of the blocks, `event` where it hangs."""
    if unknown := sorted(options.keys() - {"slots", "event"}):
        raise ConfigError(f"options.executions: {unknown[0]!r} is not known; allowed: event, slots")
    return BpfProgram(
        resources.files("infrasight_tracker_sample") / "executions.bpf.c",
        attach=(Tracepoint("executed", options.get("event", "sched:sched_process_exec")),),
        slots=options.get("slots", 1024),
    )


@hookimpl
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Remembers."""
    calls.append(columns.rows)
    known.update(
        zip(columns.fixed["pid"].tolist(), columns.array("filename").to_pylist(), strict=True)
    )
    return {}


@hookimpl
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Adds `exe`, null where the process executed before the tracker began."""
    names = map_distinct(
        batch.column("pid"), lambda pids: [known.get(pid) for pid in pids], pa.binary()
    )
    return {"exe": names.dictionary_decode()}
