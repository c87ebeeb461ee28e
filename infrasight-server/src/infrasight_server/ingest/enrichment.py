"""What the server adds to a batch: where and when it came from, and what the plugins know here."""

from typing import Any

import numpy as np
import pyarrow as pa
import structlog
from infrasight_core import constant, numbers, strings
from infrasight_core.plugin.arrays import view
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.tags import entries_kept
from prometheus_client import Counter

log = structlog.get_logger(__name__)
COLUMNS_REJECTED = Counter(
    "infrasight_server_enricher_columns_rejected",
    "Columns of an enricher that do not fit the schema.",
    ["probe", "column"],
)


def enrich(
    table: pa.Table, stored: pa.Schema, context: EnrichContext, plugins: PluginManager
) -> pa.Table:
    """The rows with all stored columns, in the table's order and types.

    Args:
        table: The agent's columns.
        stored: `EventSchema.stored` of the probe.
        context: With side `server`, and node, batch id and received time set.
        plugins: Whose `enrich` hooks are called. What they return beyond the schema, or in a type that cannot become the
            column's, is left out; a column that nobody fills is empty; a null is, too, and the row's `quality` says so.
    """
    rows = table.num_rows
    batch = (
        table.combine_chunks().to_batches()[0]
        if rows
        else pa.RecordBatch.from_pylist([], table.schema)
    )
    columns: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns["node"] = constant(context.node, rows, pa.string())
    columns["batch_id"] = constant(context.batch_id, rows, pa.string())
    columns["received_time"] = pa.repeat(
        pa.scalar(context.received_time, stored.field("received_time").type), rows
    )
    known = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    for name, array in plugins.enrich(known, context).items():
        if name in stored.names:
            columns[name] = _fitted(array, stored.field(name), columns.get(name), context.probe)
            if array.null_count:
                columns["quality"] = _flagged(columns["quality"], f"{name}_missing", array)
    return pa.Table.from_arrays(
        [_array(columns.get(f.name), f.type, rows) for f in stored], schema=stored
    )


def _fitted(
    array: pa.Array, field: pa.Field, before: pa.Array | None, probe: str
) -> pa.Array | None:
    """An enricher's array in the column's type, without nulls; what was there before it when it cannot be had."""
    try:
        fitted = array.cast(field.type)
        if pa.types.is_map(field.type):
            return entries_kept(fitted)
        return (
            fitted.fill_null(pa.scalar(_empty(field.type), _plain(field.type)))
            if fitted.null_count
            else fitted
        )
    except pa.ArrowException as error:
        COLUMNS_REJECTED.labels(probe, field.name).inc()
        log.warning(
            "enriched column does not fit", probe=probe, column=field.name, reason=str(error)
        )
        return before


def _flagged(quality: pa.ListArray, name: str, array: pa.Array) -> pa.ListArray:
    """The lists of `quality` with a name more in each row in which the array is null, unless it stands there already."""
    offsets = np.frombuffer(quality.buffers()[1], np.int32)[
        quality.offset : quality.offset + len(quality) + 1
    ]
    codes, names = view(quality.values.indices), quality.values.dictionary.to_pylist()
    code = names.index(name) if name in names else len(names)
    rows = view(array.is_null().cast(pa.uint8())).astype(bool)
    there = np.flatnonzero(codes[offsets[0] : offsets[-1]] == code) + offsets[0]
    rows[np.searchsorted(offsets, there, side="right") - 1] = False
    more = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
    dictionary = (
        quality.values.dictionary if code < len(names) else strings([*names, name], pa.string())
    )
    items = pa.DictionaryArray.from_arrays(
        numbers(np.insert(codes, offsets[1:][rows], code)), dictionary
    )
    return pa.ListArray.from_arrays(numbers(offsets + more), items, type=quality.type)


def _array(array: pa.Array | None, kind: pa.DataType, rows: int) -> pa.Array:
    if array is not None:
        return array
    empty = pa.repeat(pa.scalar(_empty(kind), _plain(kind)), rows)
    return empty.dictionary_encode() if pa.types.is_dictionary(kind) else empty


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _empty(kind: pa.DataType) -> Any:
    """protobuf's default value, which is ClickHouse's too."""
    kind = _plain(kind)
    if pa.types.is_binary(kind):
        return b""
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    if pa.types.is_string(kind):
        return ""
    if pa.types.is_nested(kind):
        return []
    return False if pa.types.is_boolean(kind) else 0
