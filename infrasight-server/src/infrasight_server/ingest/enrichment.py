"""Completes batches with what only the server knows: their origin, and the enrichers' columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import structlog
from attrs import frozen
from infrasight_core.plugin.arrays import dictionary_array, empty_values, numbers
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.quality import add_flag, fill_missing, missing_flag

from infrasight_server.metrics import COLUMNS_REJECTED

log = structlog.get_logger(__name__)


@frozen
class Origin:
    """Where rows come from.

    Attributes:
        context: The context of the `enrich` hooks, with side `server` and all fields set.
        rows: The number of rows.
    """

    context: EnrichContext
    rows: int


def enrich(
    rows: pa.RecordBatch, stored: pa.Schema, origins: Sequence[Origin], plugins: PluginManager
) -> pa.RecordBatch:
    """Returns the rows with all stored columns, in the order and types of the probe's table.

    A null in an enricher's column becomes the empty value and a flag in the row's `quality`. A
    column without a source is empty.

    Args:
        rows: The agent's columns of one batch or of several.
        stored: `EventSchema.stored` of the probe.
        origins: Where the rows come from, in their order.
        plugins: The plugins whose `enrich` hooks are called, once for each batch. Their columns
            are dropped if the schema lacks them or if their type does not fit.
    """
    known = _with_origins(rows, stored, origins)
    if not plugins.enrichers("server"):
        return _complete(known, stored)
    enriched = []
    first = 0
    for origin in origins:
        own_rows = known.slice(first, origin.rows)
        enriched.append(_complete(_enriched(own_rows, stored, origin.context, plugins), stored))
        first += origin.rows
    if len(enriched) == 1:
        return enriched[0]
    columns = pa.Table.from_batches(enriched).combine_chunks().columns
    return pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in columns], schema=stored
    )


def _with_origins(
    batch: pa.RecordBatch, stored: pa.Schema, origins: Sequence[Origin]
) -> pa.RecordBatch:
    """Adds the columns `node`, `batch_id` and `received_time`."""
    rows = [origin.rows for origin in origins]
    contexts = [origin.context for origin in origins]
    times = np.repeat(np.array([context.received_time for context in contexts], np.int64), rows)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns["node"] = _repeated([context.node for context in contexts], rows)
    columns["batch_id"] = _repeated([context.batch_id for context in contexts], rows)
    columns["received_time"] = numbers(times, stored.field("received_time").type)
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _repeated(values: Sequence[str], counts: Sequence[int]) -> pa.DictionaryArray:
    """Returns each value as often as its count says; its dictionary has each value once."""
    index_of = {value: index for index, value in enumerate(dict.fromkeys(values))}
    indices = np.array([index_of[value] for value in values], np.int32)
    return dictionary_array(np.repeat(indices, counts), list(index_of), pa.string())


def _enriched(
    batch: pa.RecordBatch, stored: pa.Schema, context: EnrichContext, plugins: PluginManager
) -> pa.RecordBatch:
    """Adds the columns of the enrichers to one batch."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, array in plugins.enrich(batch, context).items():
        if name in stored.names:
            _set_enriched(columns, array, stored.field(name), context.probe)
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _complete(batch: pa.RecordBatch, stored: pa.Schema) -> pa.RecordBatch:
    """Returns the stored columns; those without a source are empty."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for field in stored:
        if field.name not in columns:
            columns[field.name] = empty_values(batch.num_rows, field.type)
    return pa.RecordBatch.from_arrays([columns[field.name] for field in stored], schema=stored)


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
