"""Completes a batch with what only the server knows: its origin, and the enrichers' columns."""

import pyarrow as pa
import structlog
from infrasight_core import constant
from infrasight_core.plugin.arrays import empty_values
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.quality import add_flag, fill_missing, missing_flag

from infrasight_server.metrics import COLUMNS_REJECTED

log = structlog.get_logger(__name__)


def enrich(
    table: pa.Table, stored: pa.Schema, context: EnrichContext, plugins: PluginManager
) -> pa.Table:
    """Returns the rows with all stored columns, in the order and types of the probe's table.

    A null in an enricher's column becomes the empty value and a flag in the row's `quality`. A
    column without a source is empty.

    Args:
        table: The agent's columns.
        stored: `EventSchema.stored` of the probe.
        context: The context of the `enrich` hooks, with side `server` and all fields set.
        plugins: The plugins whose `enrich` hooks are called. Their columns are dropped if the
            schema lacks them or if their type does not fit.
    """
    batch = _one_batch(table)
    rows = batch.num_rows
    columns: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns["node"] = constant(context.node, rows, pa.string())
    columns["batch_id"] = constant(context.batch_id, rows, pa.string())
    received_time = pa.scalar(context.received_time, stored.field("received_time").type)
    columns["received_time"] = pa.repeat(received_time, rows)
    known = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    for name, array in plugins.enrich(known, context).items():
        if name in stored.names:
            _set_enriched(columns, array, stored.field(name), context.probe)
    for field in stored:
        if field.name not in columns:
            columns[field.name] = empty_values(rows, field.type)
    return pa.Table.from_arrays([columns[field.name] for field in stored], schema=stored)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    if not table.num_rows:
        return pa.RecordBatch.from_pylist([], table.schema)
    return table.combine_chunks().to_batches()[0]


def _set_enriched(
    columns: dict[str, pa.Array], array: pa.Array, field: pa.Field, probe: str
) -> None:
    """Sets an enricher's column in the field's type and flags its nulls; drops it if it misfits."""
    try:
        filled, missing = fill_missing(array.cast(field.type))
    except pa.ArrowException as error:
        COLUMNS_REJECTED.labels(probe, field.name).inc()
        log.warning(
            "rejected a column of an enricher: its type does not fit",
            probe=probe,
            column=field.name,
            reason=str(error),
        )
        return
    columns[field.name] = filled
    if missing.any():
        columns["quality"] = add_flag(columns["quality"], missing_flag(field.name), missing)
