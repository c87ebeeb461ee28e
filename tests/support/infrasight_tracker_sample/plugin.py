"""The enricher `executions`: fills `exe` of every row with what the process executed last."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import pyarrow as pa
from attrs import frozen
from infrasight_core import (
    BpfProgram,
    Columns,
    EnrichContext,
    Kernel,
    Tracepoint,
    hookimpl,
    map_distinct,
    options_of,
)

infrasight_api = 1


@frozen
class Options:
    """The options of the enricher.

    Attributes:
        slots: The number of slots of each block.
        event: The tracepoint that the program attaches to.
    """

    slots: int = 1024
    event: str = "sched:sched_process_exec"


infrasight_options = Options
known: dict[int, bytes] = {}  # by pid; a real one would be bounded
calls: list[int] = []  # the rows that each call of `decode` brought


@hookimpl
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Records every execution."""
    own = options_of("executions", options, Options)
    return BpfProgram(
        resources.files("infrasight_tracker_sample") / "executions.bpf.c",
        attach=(Tracepoint("executed", own.event),),
        slots=own.slots,
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
