"""News of containers in the outbox: the newest of each, bounded, until they are acknowledged."""

import asyncio
from typing import Any

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Batch, Container
from infrasight_core.agent.container_updates import BATCH_BYTES, BATCH_CONTAINERS
from infrasight_core.agent.outbox import DROPPED_UPDATES, WAITING_BYTES, Outbox
from infrasight_core.agent.sink import Delivery

SCHEMA = sample.schema()


def delivery(name: str) -> Delivery:
    """A batch of no rows."""
    return Delivery(name, "sample", SCHEMA, pa.RecordBatch.from_pylist([], schema=SCHEMA.agent))


def taken(outbox: Outbox, count: int) -> list[Batch]:
    """The next batches."""

    async def take() -> list[Batch]:
        return [await outbox.next_batch() for _ in range(count)]

    return asyncio.run(take())


def news(container_id: str, *, seconds: int = 1_790_000_000, **fields: Any) -> Container:
    """What is told of a container."""
    said = Container(container_id=container_id, **fields)
    said.time.FromSeconds(seconds)
    return said


def names(batch: Batch) -> list[tuple[str, bytes]]:
    """The containers of a batch and their names."""
    return [(said.container_id, said.name) for said in batch.containers]


def untold(reason: str) -> float:
    """How much news has been given up for a reason."""
    return float(DROPPED_UPDATES.labels(reason)._value.get())


def test_the_newest_news_of_a_container_leave_alone() -> None:
    """Of what has not left, newer news replace older; one batch brings all, before the events, with nothing else in it."""
    outbox = Outbox(1 << 20)
    outbox.put(delivery("events"))
    outbox.publish([news("a", name=b"1"), news("b", name=b"1")])
    outbox.publish([news("a", name=b"longer", labels={"app": "web"})])
    assert outbox.waiting() == (2, 0)
    batch, events = taken(outbox, 2)
    assert names(batch) == [("a", b"longer"), ("b", b"1")]
    assert (batch.rows, batch.probe, batch.WhichOneof("body"), batch.HasField("account")) == (
        0,
        "",
        None,
        False,
    )
    assert events.batch_id == "events"
    for sent in (batch, events):
        outbox.acknowledge(sent.batch_id)
    assert outbox.waiting() == (0, 0)
    assert WAITING_BYTES._value.get() == 0


def test_what_was_not_acknowledged_is_sent_again_unless_there_is_newer() -> None:
    """After a break, news that had left go again, but for a container of which something newer waits."""
    outbox = Outbox(1 << 20)
    outbox.publish([news("a", name=b"old"), news("b", name=b"same")])
    (first,) = taken(outbox, 1)
    outbox.publish([news("a", name=b"new")])
    outbox.resend_unacknowledged()
    (again,) = taken(outbox, 1)
    assert sorted(names(again)) == [("a", b"new"), ("b", b"same")]
    assert again.batch_id != first.batch_id
    outbox.acknowledge(again.batch_id)
    outbox.resend_unacknowledged()
    assert outbox.waiting() == (0, 0)
    assert WAITING_BYTES._value.get() == 0


def test_batches_of_news_are_bounded() -> None:
    """Much news goes in several batches, none longer than a bound in number or in bytes, each container once."""
    outbox = Outbox(64 << 20)
    outbox.publish([news(f"small-{n}") for n in range(2 * BATCH_CONTAINERS)])
    outbox.publish([news(f"large-{n}", labels={"a": "v" * 60_000}) for n in range(40)])
    batches = taken(outbox, 5)
    assert [len(batch.containers) for batch in batches[:2]] == [BATCH_CONTAINERS] * 2
    assert all(batch.ByteSize() < BATCH_BYTES + 70_000 for batch in batches)
    assert (
        len({said.container_id for batch in batches for said in batch.containers})
        == 2 * BATCH_CONTAINERS + 40
    )
    assert outbox.waiting() == (5, 0)
    for batch in batches:
        outbox.acknowledge(batch.batch_id)
    assert WAITING_BYTES._value.get() == 0


def test_news_count_against_the_limit() -> None:
    """News that find no room are counted and not taken; events find no room where news take it, and find it when they left."""
    outbox = Outbox(70_000)
    before = untold("outbox_full")
    outbox.publish(
        [news("a", labels={"a": "v" * 60_000}), news("b", labels={"a": "v" * 20_000}), news("c")]
    )
    assert untold("outbox_full") == before + 1
    (batch,) = taken(outbox, 1)
    assert [said.container_id for said in batch.containers] == ["a", "c"]
    outbox.publish([news("d", labels={"a": "v" * 8_000})])
    assert outbox.put(delivery("e")) is False
    outbox.acknowledge(batch.batch_id)
    assert outbox.put(delivery("e")) is True


@pytest.mark.parametrize(
    "said", [news(""), news("a", name=b"n" * 5000), Container(container_id="a")]
)
def test_malformed_news_cost_only_themselves(said: Container) -> None:
    """What the server would refuse is counted here, and what came with it goes its way."""
    outbox = Outbox(1 << 20)
    before = untold("malformed")
    outbox.publish([said, news("good")])
    assert untold("malformed") == before + 1
    assert names(taken(outbox, 1)[0]) == [("good", b"")]


def test_refused_news_are_let_go() -> None:
    """A refusal takes the news out for good, counted."""
    outbox = Outbox(1 << 20)
    before = untold("rejected")
    outbox.publish([news("a"), news("b")])
    (batch,) = taken(outbox, 1)
    outbox.reject(batch.batch_id, "REJECTION_REASON_UNKNOWN_PROBE", "an older server")
    outbox.resend_unacknowledged()
    assert outbox.waiting() == (0, 0)
    assert untold("rejected") == before + 2
