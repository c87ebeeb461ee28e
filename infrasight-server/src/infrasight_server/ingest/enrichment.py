"""What the server adds to a batch: where and when it came from, and what the plugins know here."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog
from infrasight_core import constant
from infrasight_core.plugin.arrays import empty_values
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.quality import add_flag, fill_missing, missing_flag
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
            filled = _filled(array, stored.field(name), context.probe)
            if filled is not None:
                columns[name], missing = filled
                if missing.any():
                    columns["quality"] = add_flag(columns["quality"], missing_flag(name), missing)
    for field in stored:
        if field.name not in columns:
            columns[field.name] = empty_values(rows, field.type)
    return pa.Table.from_arrays([columns[field.name] for field in stored], schema=stored)


def _filled(
    array: pa.Array, field: pa.Field, probe: str
) -> tuple[pa.Array, npt.NDArray[np.bool_]] | None:
    """Casts an enricher's array to the column's type; see `fill_missing`. None if it does not fit."""
    try:
        return fill_missing(array.cast(field.type))
    except pa.ArrowException as error:
        COLUMNS_REJECTED.labels(probe, field.name).inc()
        log.warning(
            "enriched column does not fit", probe=probe, column=field.name, reason=str(error)
        )
        return None
