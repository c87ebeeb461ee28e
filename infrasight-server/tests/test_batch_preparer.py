"""Batches are validated and enriched together, and each gets its own outcome."""

import asyncio
from collections.abc import Mapping

import pyarrow as pa
from infrasight.v1.stream_pb2 import Batch, Rejection
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_server.ingest.batch_preparer import (
    BatchPreparer,
    Prepared,
    PreparedRows,
    ReceivedBatch,
)
from infrasight_testbed.execve_batches import LIMITS, SCHEMA, TIME, plugins, table
from infrasight_testbed.execve_batches import batch as batch_of

DAY_NS = 86_400 * 10**9
SMALL = 1_000


def prepared(
    batches: list[tuple[str, Batch]], manager: PluginManager, size: int = SMALL
) -> list[tuple[str, str, Prepared]]:
    """Returns node, id and outcome of batches in the order in which they are passed on."""
    outcomes: list[tuple[str, str, Prepared]] = []

    def note(received: ReceivedBatch, outcome: Prepared) -> None:
        outcomes.append((received.node, received.batch.batch_id, outcome))

    async def run() -> None:
        preparer = BatchPreparer(manager, LIMITS, note)
        for node, sent in batches:
            future = asyncio.get_running_loop().create_future()
            preparer.submit(ReceivedBatch(node, sent, size, 0.0, future))
        await preparer.close()

    asyncio.run(run())
    return outcomes


def test_merged_batches_have_their_own_rows() -> None:
    """Each batch gets its rows, with its node and id, also where two nodes use the same id."""
    sent = [(f"node-{n}", batch_of(f"b{n // 2}", table(n, first=100 * n))) for n in range(1, 30)]
    outcomes = prepared(sent, plugins())
    assert [outcome[:2] for outcome in outcomes] == [(node, b.batch_id) for node, b in sent]
    for number, (node, batch_id, outcome) in enumerate(outcomes, 1):
        assert isinstance(outcome, PreparedRows)
        assert outcome.rows.schema.equals(SCHEMA.stored)
        first = 100 * number
        assert outcome.rows["sequence"].to_pylist() == list(range(first, first + number))
        assert set(outcome.rows["node"].to_pylist()) == {node}
        assert set(outcome.rows["batch_id"].to_pylist()) == {batch_id}
        assert outcome.days == {TIME // DAY_NS}


def test_days_are_those_of_each_batch() -> None:
    """Batches of different days that are merged keep their own days."""
    field = SCHEMA.agent.field("time")
    earlier = table(2, time=pa.array([TIME - DAY_NS, TIME - 3 * DAY_NS]).cast(field.type))
    outcomes = prepared([("a", batch_of("a", table(1))), ("b", batch_of("b", earlier))], plugins())
    days = [outcome.days for *_, outcome in outcomes if isinstance(outcome, PreparedRows)]
    today = TIME // DAY_NS
    assert days == [{today}, {today - 1, today - 3}]


def test_bad_batches_are_rejected_alone() -> None:
    """Among merged batches, those with malformed or impossible rows get their own reasons."""
    field = SCHEMA.agent.field("time")
    bad = {
        3: (batch_of("bad", table(1), arrow=b"nothing"), "not an Arrow IPC stream"),
        8: (
            batch_of("bad", table(1, time=pa.array([1]).cast(field.type))),
            "older than max_age_days",
        ),
        9: (
            batch_of("bad", table(1, exe=pa.array([b"x" * (2 << 20)]))),
            "column exe has a value of",
        ),
        20: (
            batch_of("bad", table(1).append_column("further", [[1]]), fingerprint="0"),
            "further columns, further",
        ),
    }
    sent = [bad[n][0] if n in bad else batch_of(f"good-{n}", table(5)) for n in range(25)]
    outcomes = prepared([(f"node-{n}", one) for n, one in enumerate(sent)], plugins())
    for number, (_, _, outcome) in enumerate(outcomes):
        if number in bad:
            assert isinstance(outcome, Rejection)
            assert bad[number][1] in outcome.detail
        else:
            assert isinstance(outcome, PreparedRows)
            assert outcome.rows.num_rows == 5


def test_enrichers_see_one_batch_at_a_time() -> None:
    """An enricher gets the rows and the context of each merged batch."""
    seen = []

    def hook(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
        seen.append((context.node, context.batch_id, batch.num_rows))
        return {"user": pa.array([context.node] * batch.num_rows)}

    outcomes = prepared(
        [("a", batch_of("1", table(2))), ("b", batch_of("2", table(3)))], plugins(enrich=hook)
    )
    assert seen == [("a", "1", 2), ("b", "2", 3)]
    for node, _, outcome in outcomes:
        assert isinstance(outcome, PreparedRows)
        assert set(outcome.rows["user"].to_pylist()) == {node.encode()}


def test_nodes_take_turns() -> None:
    """Between large batches of one node, another node's batch does not wait for them all."""
    many = [("busy", batch_of(str(number), table(1))) for number in range(5)]
    outcomes = prepared([*many, ("other", batch_of("x", table(1)))], plugins(), size=1 << 30)
    assert [node for node, *_ in outcomes] == ["busy", "other", *["busy"] * 4]
