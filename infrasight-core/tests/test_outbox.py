"""The outbox: what is in it is sent until it is acknowledged; what is not in it is counted."""

import asyncio

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
from infrasight_core import ipc
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.recorder import Delivery

SCHEMA = sample.schema()


def delivery(name: str) -> Delivery:
    """A batch of no rows."""
    return Delivery(name, "sample", SCHEMA, empty())


def empty() -> pa.RecordBatch:
    """No rows of the agent's columns."""
    return pa.RecordBatch.from_pylist([], schema=SCHEMA.agent)


def filled(*names: str, limit: int = 1 << 20) -> Outbox:
    """An outbox with these batches."""
    outbox = Outbox(limit)
    for name in names:
        outbox.put(delivery(name))
    return outbox


def sent(outbox: Outbox, count: int) -> list[tuple[str, bool]]:
    """The next batches' ids and whether they are marked as sent before."""

    async def take() -> list[tuple[str, bool]]:
        return [(batch.batch_id, batch.retry) for batch in [await outbox.next() for _ in range(count)]]

    return asyncio.run(take())


def test_batches_are_sent_in_order_and_once() -> None:
    """First in, first out; an acknowledged one is gone."""
    outbox = filled("a", "b", "c")
    assert sent(outbox, 2) == [("a", False), ("b", False)]
    outbox.acknowledged("a")
    assert outbox.waiting()[0] == 2
    assert sent(outbox, 1) == [("c", False)]


def test_what_was_not_acknowledged_is_sent_again_and_marked() -> None:
    """After a break, the sent ones come first, as retries; the others follow as they were."""
    outbox = filled("a", "b", "c")
    sent(outbox, 2)
    outbox.acknowledged("a")
    outbox.disconnected()
    assert sent(outbox, 2) == [("b", True), ("c", False)]


def test_a_refused_batch_is_let_go() -> None:
    """A refusal takes the batch out for good."""
    outbox = filled("a")
    sent(outbox, 1)
    outbox.refused("a", "REFUSAL_REASON_MALFORMED", "why")
    outbox.disconnected()
    assert outbox.waiting() == (0, 0)


def test_what_is_dropped_is_told_with_the_next_batch() -> None:
    """Losses of the blocks and of a full outbox are added up by reason and go with the probe's next batch, once."""
    outbox = filled("a", "b", limit=len(ipc.to_bytes(empty())))  # there is room for one: "b" is dropped
    outbox.dropped("sample", "block_full", 7)
    outbox.dropped("sample", "block_full", 5)

    async def drops() -> dict[str, int]:
        return {drop.reason: drop.events for drop in (await outbox.next()).drops}

    assert asyncio.run(drops()) == {"block_full": 12, "outbox_full": 0}
    outbox.acknowledged("a")
    outbox.put(delivery("c"))
    assert asyncio.run(drops()) == {}


def test_an_unknown_acknowledgement_changes_nothing() -> None:
    """An id that is not waiting, as after a repeated acknowledgement, is ignored."""
    outbox = filled("a")
    outbox.acknowledged("z")
    assert outbox.waiting()[0] == 1


def test_conforming_batches_travel_unchanged() -> None:
    """The bytes on the wire are an Arrow stream of exactly the agent's columns."""
    outbox = filled("a")

    async def take() -> bytes:
        return (await outbox.next()).arrow

    assert ipc.from_bytes(asyncio.run(take())).schema == SCHEMA.agent
