"""Rows are split into pieces of bounded size, in order and without loss."""

import pyarrow as pa
from infrasight_server.query.pieces import pieces


def test_large_rows_are_split() -> None:
    """20 MB become several pieces; together they are the rows."""
    rows = pa.table({"text": pa.array(["x" * 1000] * 20_000)})
    split = list(pieces(rows))
    assert 4 <= len(split) <= 8
    assert pa.concat_tables(split).equals(rows)


def test_small_and_empty_rows_are_one_piece() -> None:
    """A client gets the columns also when there are no rows."""
    for number in (0, 1, 1000):
        rows = pa.table({"number": pa.array(range(number), pa.int64())})
        (piece,) = pieces(rows)
        assert piece.equals(rows)
