"""Splits rows into pieces of bounded size, so that a call without a reader holds little."""

from collections.abc import Iterator
from typing import TypeVar

import pyarrow as pa

_PIECE_BYTES = 4 << 20
Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def pieces(rows: Rows) -> Iterator[Rows]:
    """Yields the rows in slices of about 4 MiB; without rows, one empty slice."""
    piece_rows = max(1, rows.num_rows * _PIECE_BYTES // max(rows.nbytes, 1))
    for start in range(0, max(rows.num_rows, 1), piece_rows):
        yield rows.slice(start, piece_rows)
