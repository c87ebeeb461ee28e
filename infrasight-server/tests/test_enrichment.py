"""The server completes a batch; a faulty enricher affects its own column only."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import map_distinct_lists
from infrasight_core.plugin.context import EnrichContext
from infrasight_server.metrics import COLUMNS_REJECTED
from infrasight_testbed.execve_batches import NODE, SCHEMA, TIME, enriched, plugins, table

CONTEXT = EnrichContext("server", "execve", NODE, "batch-1", TIME)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_server_fills_its_columns(rows: int) -> None:
    """Every row has node, batch id and received time, in the schema's order and types."""
    complete = enriched(table(rows), CONTEXT, plugins())
    assert complete.schema.equals(SCHEMA.stored)
    assert complete.num_rows == rows
    assert set(complete["node"].to_pylist()) == ({NODE} if rows else set())
    assert set(complete["batch_id"].to_pylist()) == ({"batch-1"} if rows else set())
    assert set(complete["received_time"].cast(pa.int64()).to_pylist()) == (
        {TIME} if rows else set()
    )


def test_enricher_sees_the_servers_columns_and_replaces_others() -> None:
    """Its columns are cast to the types of the schema, and its nulls are flagged."""
    seen = []

    def hook(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
        seen.append((context, batch.schema.names))
        return {
            "user": pa.array(["root", None, "root"]),
            "uid": pa.array([1, None, 3]),
            "unheard_of": pa.array([1, 2, 3]),
        }

    complete = enriched(table(3), CONTEXT, plugins(enrich=hook))
    assert complete.schema.equals(SCHEMA.stored)
    assert complete["user"].to_pylist() == [b"root", b"", b"root"]
    assert complete["uid"].to_pylist() == [1, 0, 3]
    assert [row[-2:] for row in complete["quality"].to_pylist()][1] == [
        "user_missing",
        "uid_missing",
    ]
    assert seen[0][0] == CONTEXT
    assert {"node", "batch_id", "received_time", "pid"} <= set(seen[0][1])


def test_null_of_an_enricher_is_flagged_once() -> None:
    """The flag joins the agent's flags of the row, and is not added a second time."""
    agents = [["argv_cut"], [], ["user_missing"], ["argv_cut"]]
    quality = map_distinct_lists(
        np.arange(4, dtype=np.uint64), lambda few: [agents[n] for n in few], pa.string()
    )
    rows = table(4, quality=quality)
    hook = plugins(enrich=lambda batch, context: {"user": pa.array([None, "root", None, None])})
    complete = enriched(rows, CONTEXT, hook)["quality"]
    assert complete.to_pylist() == [
        ["argv_cut", "user_missing"],
        [],
        ["user_missing"],
        ["argv_cut", "user_missing"],
    ]
    assert enriched(rows.slice(1), CONTEXT, plugins()).num_rows == 3


def test_column_of_another_type_is_dropped_and_counted() -> None:
    """Text in place of a number costs that column only; the batch keeps the agent's values."""
    before = COLUMNS_REJECTED.labels("execve", "pid")._value.get()
    hook = plugins(enrich=lambda batch, context: {"pid": pa.array(["a", "b"])})
    complete = enriched(table(2), CONTEXT, hook)
    assert complete["pid"].to_pylist() == [0, 1]
    assert COLUMNS_REJECTED.labels("execve", "pid")._value.get() == before + 1


def test_enricher_that_raises_affects_nothing_else() -> None:
    """The batch is complete without the columns of that enricher."""

    def hook(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
        raise RuntimeError("no database")

    assert enriched(table(2), CONTEXT, plugins(enrich=hook)).num_rows == 2


def test_column_without_a_source_is_empty() -> None:
    """A column that only a server-side enricher would fill has protobuf's default value."""
    types = [
        pa.uint32(),
        pa.bool_(),
        pa.float64(),
        pa.string(),
        pa.list_(pa.binary()),
        pa.map_(pa.string(), pa.int64()),
    ]
    extra = [
        pa.field(f"extra_{n}", type_)
        for n, type_ in enumerate([*types, pa.dictionary(pa.int32(), pa.binary())])
    ]
    stored = pa.schema([*SCHEMA.stored, *extra])
    complete = enriched(table(2), CONTEXT, plugins(), stored)
    assert [complete[f.name].to_pylist()[0] for f in extra] == [0, False, 0.0, "", [], [], b""]
