"""Finds which batches the store has already, and which of their rows are missing there."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import field, frozen
from infrasight_core.errors import StoreUnavailableError

from infrasight_server.store.clickhouse import POSITIONS, BatchSummary, Store
from infrasight_server.store.pending_batch import PendingBatch


@frozen
class Found:
    """What the store has of some batches, by their keys.

    Attributes:
        complete: Batches that are stored.
        missing: The rows that are missing of batches that are stored in part.
        conflicts: Batches whose stored rows are not those that were sent.
    """

    complete: set[tuple[str, str]] = field(factory=set)
    missing: dict[tuple[str, str], pa.RecordBatch] = field(factory=dict)
    conflicts: set[tuple[str, str]] = field(factory=set)


def find_stored(store: Store, table: str, batches: Sequence[PendingBatch]) -> Found:
    """Finds which batches are stored, in whole or in part.

    An insert that is interrupted can leave a part of a batch, because each partition and each
    large block is written by itself. Only the missing rows are inserted then.

    Raises:
        StoreError: The store rejects a query.
        StoreUnavailableError: The store does not answer, or not completely.
    """
    found = Found()
    if not batches:
        return found
    nodes = {batch.node for batch in batches}
    batch_ids = {batch.batch_id for batch in batches}
    summaries = store.stored_batches(table, nodes, batch_ids)
    for batch in batches:
        stored = summaries.get(batch.key)
        if stored is None:
            continue
        sent = _summary(batch.rows)
        if stored == sent:
            found.complete.add(batch.key)
            continue
        missing = None
        if stored.rows < sent.rows:
            positions = store.stored_positions(table, batch.node, batch.batch_id)
            if positions.num_rows != stored.rows:
                raise StoreUnavailableError(
                    f"it shows {positions.num_rows} of the {stored.rows} rows of a batch"
                )
            missing = _missing_rows(batch.rows, positions)
        if missing is None:
            found.conflicts.add(batch.key)
        else:
            found.missing[batch.key] = missing
    return found


def _summary(rows: pa.RecordBatch) -> BatchSummary:
    if not rows.num_rows:
        return BatchSummary(0, 0, 0, 0)
    times = pc.min_max(rows["time"].cast(pa.int64())).as_py()
    sequences = rows["sequence"].to_numpy().astype(np.uint64).sum(dtype=np.uint64)
    return BatchSummary(rows.num_rows, times["min"], times["max"], int(sequences))


def _missing_rows(rows: pa.RecordBatch, stored: pa.Table) -> pa.RecordBatch | None:
    """Returns the rows of a batch that are not stored; None if other rows are stored."""
    keys = POSITIONS.names
    sent = pa.Table.from_batches([rows]).select(keys).cast(POSITIONS)
    numbered = sent.append_column("row", pa.array(np.arange(rows.num_rows)))
    missing = numbered.join(stored, keys, join_type="left anti")["row"]
    are_sent = not stored.join(sent, keys, join_type="left anti").num_rows
    # Events at the same position are stored together or not at all.
    if not are_sent or len(missing) + stored.num_rows != rows.num_rows:
        return None
    return rows.take(missing.sort().combine_chunks())
