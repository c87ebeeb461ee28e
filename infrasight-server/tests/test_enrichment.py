"""What the server adds to a batch, and that a bad enricher costs only its own column."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import map_distinct_lists
from infrasight_core.plugin.context import EnrichContext
from infrasight_server.ingest.enrichment import enrich
from infrasight_server.metrics import COLUMNS_REJECTED
from infrasight_testbed.execve_batches import NODE, SCHEMA, TIME, plugins, table

CONTEXT = EnrichContext("server", "execve", NODE, "batch-1", TIME)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_the_servers_columns_are_filled(rows: int) -> None:
    """Node, batch id and received time are there in every row, in the schema's order and types."""
    found = enrich(table(rows), SCHEMA.stored, CONTEXT, plugins())
    assert found.schema.equals(SCHEMA.stored)
    assert found.num_rows == rows
    assert set(found["node"].to_pylist()) == ({NODE} if rows else set())
    assert set(found["batch_id"].to_pylist()) == ({"batch-1"} if rows else set())
    assert set(found["received_time"].cast(pa.int64()).to_pylist()) == ({TIME} if rows else set())


def test_an_enricher_sees_the_server_and_replaces_columns() -> None:
    """Its hook gets the columns with node and batch id; what it returns is cast to the column's type, and nulls are flagged."""
    seen = []

    def hook(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
        seen.append((context, batch.schema.names))
        return {
            "user": pa.array(["root", None, "root"]),
            "uid": pa.array([1, None, 3]),
            "unheard_of": pa.array([1, 2, 3]),
        }

    found = enrich(table(3), SCHEMA.stored, CONTEXT, plugins(enrich=hook))
    assert found.schema.equals(SCHEMA.stored)
    assert found["user"].to_pylist() == [b"root", b"", b"root"]
    assert found["uid"].to_pylist() == [1, 0, 3]
    assert [row[-2:] for row in found["quality"].to_pylist()][1] == ["user_missing", "uid_missing"]
    assert seen[0][0] == CONTEXT
    assert {"node", "batch_id", "received_time", "pid"} <= set(seen[0][1])


def test_what_an_enricher_does_not_know_is_flagged_once() -> None:
    """A null's flag joins those that the agent has set, in its own row, and is not set twice."""
    agents = [["argv_cut"], [], ["user_missing"], ["argv_cut"]]
    quality = map_distinct_lists(
        np.arange(4, dtype=np.uint64), lambda few: [agents[n] for n in few], pa.string()
    )
    rows = table(4, quality=quality)
    hook = plugins(enrich=lambda batch, context: {"user": pa.array([None, "root", None, None])})
    found = enrich(rows, SCHEMA.stored, CONTEXT, hook)["quality"]
    assert found.to_pylist() == [
        ["argv_cut", "user_missing"],
        [],
        ["user_missing"],
        ["argv_cut", "user_missing"],
    ]
    assert enrich(rows.slice(1), SCHEMA.stored, CONTEXT, plugins()).num_rows == 3


def test_a_column_that_does_not_fit_is_left_out_and_counted() -> None:
    """An enricher that returns text for a number loses that column only; the rest of the batch is stored."""
    before = COLUMNS_REJECTED.labels("execve", "pid")._value.get()
    found = enrich(
        table(2),
        SCHEMA.stored,
        CONTEXT,
        plugins(enrich=lambda batch, context: {"pid": pa.array(["a", "b"])}),
    )
    assert found["pid"].to_pylist() == [0, 1]
    assert COLUMNS_REJECTED.labels("execve", "pid")._value.get() == before + 1


def test_an_enricher_that_raises_costs_nothing_else() -> None:
    """The batch is stored without what it would have added."""

    def hook(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
        raise RuntimeError("no database")

    assert enrich(table(2), SCHEMA.stored, CONTEXT, plugins(enrich=hook)).num_rows == 2


def test_a_column_that_nobody_fills_is_empty() -> None:
    """A column that the probe leaves to a server-side enricher has protobuf's default where there is none."""
    kinds = [
        pa.uint32(),
        pa.bool_(),
        pa.float64(),
        pa.string(),
        pa.list_(pa.binary()),
        pa.map_(pa.string(), pa.int64()),
    ]
    extra = [
        pa.field(f"extra_{n}", kind)
        for n, kind in enumerate([*kinds, pa.dictionary(pa.int32(), pa.binary())])
    ]
    found = enrich(table(2), pa.schema([*SCHEMA.stored, *extra]), CONTEXT, plugins())
    assert [found[f.name].to_pylist()[0] for f in extra] == [0, False, 0.0, "", [], [], b""]
