"""Batches of execve events, as an agent sends them, and plugins for a server."""

import time
from collections.abc import Callable, Mapping
from importlib import resources
from types import ModuleType
from typing import Any

import infrasight_probe_execve
import numpy as np
import pyarrow as pa
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_MALFORMED,
    Batch,
    Hello,
    ProbeSchema,
    Rejection,
)
from infrasight_core import API_VERSION, EventSchema, constant, hookimpl
from infrasight_core.errors import SchemaError
from infrasight_core.net import ipc
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent
from infrasight_server.ingest.enrichment import Origin, enrich
from infrasight_server.ingest.validation import decode_events, merge_events, reject
from infrasight_server.limits import BatchLimits

SCHEMA = EventSchema(ExecveEvent, resources.files(infrasight_probe_execve) / "execve_events.sql")
NODE = "node-1"
TIME = (int(time.time()) // 86_400 * 86_400 - 43_200) * 10**9 + 123_456_789
"""The time of the first event of `table` in ns, yesterday at noon; each later one is a microsecond
later."""
WINDOW = TIME // 10**9 // 60
"""The window of the first event, for accounts and batch ids."""
LIMITS = BatchLimits(max_batch_bytes=1 << 20, max_decoded_bytes=64 << 20, max_age_days=366)


def plugins(
    schemas: Mapping[str, EventSchema] | None = None, enrich: Callable[..., Any] | None = None
) -> PluginManager:
    """A manager of plugins with a schema each, execve's by default, and of an enricher."""
    manager = PluginManager()
    for name, schema in (schemas or {"execve": SCHEMA}).items():
        manager.register(name, _module("schema", lambda schema=schema: schema))
    if enrich is not None:
        manager.register("enricher", _module("enrich", enrich))
    assert not manager.failures, manager.failures
    return manager


def _module(hook: str, function: Callable[..., Any]) -> ModuleType:
    module = ModuleType(hook)
    vars(module).update({"infrasight_api": API_VERSION, hook: hookimpl(function)})
    return module


def table(rows: int, first: int = 0, **columns: pa.Array) -> pa.Table:
    """Columns of execve events with `sequence` from `first`; given columns replace defaults."""
    numbers = np.arange(first, first + rows)
    for field in SCHEMA.agent:
        if field.name in columns:
            continue
        if field.name == "time":
            columns[field.name] = pa.array(TIME + numbers * 1000).cast(field.type)
        elif pa.types.is_integer(field.type):
            columns[field.name] = pa.array(numbers).cast(field.type)
        elif pa.types.is_dictionary(field.type):
            columns[field.name] = constant(
                "sh" if pa.types.is_string(field.type.value_type) else b"sh",
                rows,
                field.type.value_type,
            )
        elif pa.types.is_map(field.type):
            columns[field.name] = pa.array(
                [[("owner", f"team {n}")] * (n % 2) for n in numbers.tolist()], field.type
            )
        elif pa.types.is_list(field.type):
            item = "argv_cut" if pa.types.is_string(field.type.value_type) else b"-c"
            items = pa.repeat(pa.scalar(item, field.type.value_type), 2 * rows)
            columns[field.name] = pa.ListArray.from_arrays(
                pa.array(np.arange(0, 2 * rows + 1, 2), pa.int32()), items, field.type
            )
        else:
            columns[field.name] = pa.repeat(pa.scalar(b"/usr/bin/sh", field.type), rows)
    return pa.Table.from_arrays([columns[f.name] for f in SCHEMA.agent], schema=SCHEMA.agent)


def batch(batch_id: str, content: pa.Table, *, probe: str = "execve", **fields: Any) -> Batch:
    """The batch of some agent columns; further fields replace what belongs to them."""
    body = (
        {}
        if "arrow" in fields or "messages" in fields
        else {"arrow": ipc.to_bytes(*content.combine_chunks().to_batches())}
    )
    sent = {
        "batch_id": batch_id,
        "probe": probe,
        "message_type": SCHEMA.message_type,
        "fingerprint": SCHEMA.fingerprint,
        "rows": content.num_rows,
    }
    return Batch(**(sent | body | fields))


def validated(
    sent: Batch, schema: EventSchema = SCHEMA, limits: BatchLimits = LIMITS
) -> pa.RecordBatch | Rejection:
    """The rows of a batch, or why it is rejected, after the checks of a server's preparer."""
    rows = decode_events(sent, schema)
    if isinstance(rows, Rejection):
        return rows
    try:
        return merge_events([rows], schema, limits)
    except SchemaError as error:
        return reject(sent, REJECTION_REASON_MALFORMED, str(error))


def enriched(
    rows: pa.Table | pa.RecordBatch,
    context: EnrichContext,
    manager: PluginManager,
    stored: pa.Schema = SCHEMA.stored,
) -> pa.Table:
    """The rows of one batch with all stored columns, as the server inserts them."""
    (one,) = pa.Table.from_batches(
        rows.combine_chunks().to_batches() if isinstance(rows, pa.Table) else [rows], rows.schema
    ).to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]
    complete = enrich(one, stored, [Origin(context, one.num_rows)], manager)
    return pa.Table.from_batches([complete])


def hello(*probes: str, node: str = NODE, fingerprint: str = SCHEMA.fingerprint) -> Hello:
    """The hello of an agent with these probes, all with execve's schema; by default execve."""
    named = probes or ("execve",)
    schemas = [
        ProbeSchema(probe=p, message_type=SCHEMA.message_type, fingerprint=fingerprint)
        for p in named
    ]
    return Hello(node=node, boot_id="boot", agent_version="test", probes=schemas)
