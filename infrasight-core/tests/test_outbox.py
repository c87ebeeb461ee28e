"""The outbox: what is in it is sent until it is acknowledged; what is not in it is counted."""

import asyncio

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
from infrasight.v1.stream_pb2 import Account, Batch
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.sink import Delivery
from infrasight_core.net import ipc

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


def taken(outbox: Outbox, count: int) -> list[Batch]:
    """The next batches."""

    async def take() -> list[Batch]:
        return [await outbox.next_batch() for _ in range(count)]

    return asyncio.run(take())


def sent(outbox: Outbox, count: int) -> list[tuple[str, bool]]:
    """The next batches' ids and whether they are marked as sent before."""
    return [(batch.batch_id, batch.retry) for batch in taken(outbox, count)]


def test_batches_are_sent_in_order_and_once() -> None:
    """First in, first out; an acknowledged one is gone."""
    outbox = filled("a", "b", "c")
    assert sent(outbox, 2) == [("a", False), ("b", False)]
    outbox.acknowledge("a")
    assert outbox.waiting()[0] == 2
    assert sent(outbox, 1) == [("c", False)]


def test_what_was_not_acknowledged_is_sent_again_and_marked() -> None:
    """After a break, the sent ones come first, as retries; the others follow as they were."""
    outbox = filled("a", "b", "c")
    sent(outbox, 2)
    outbox.acknowledge("a")
    outbox.resend_unacknowledged()
    assert sent(outbox, 2) == [("b", True), ("c", False)]


def test_a_refused_batch_is_let_go() -> None:
    """A rejection takes the batch out for good."""
    outbox = filled("a")
    sent(outbox, 1)
    outbox.reject("a", "REJECTION_REASON_MALFORMED", "why")
    outbox.resend_unacknowledged()
    assert outbox.waiting() == (0, 0)


def test_a_full_outbox_says_so() -> None:
    """A batch that finds no room is not taken, and the recorder hears of it; an account always finds room."""
    outbox = Outbox(len(ipc.to_bytes(empty())))
    assert [outbox.put(delivery(name)) for name in ("a", "b")] == [True, False]
    outbox.put_account("sample", Account(run="r", window=1, number=1, outbox_full=3))
    assert [batch.account.outbox_full for batch in taken(outbox, 2)] == [0, 3]


def test_an_account_takes_the_place_of_the_one_before_it() -> None:
    """Of a window's accounts that have not left, only the newest is sent; those of other windows and probes stay."""
    outbox = filled("a")
    for probe, window, number in (("x", 1, 1), ("x", 1, 2), ("y", 1, 1), ("x", 2, 3), ("x", 2, 4)):
        outbox.put_account(probe, Account(run=probe, window=window, number=number))
    batches = taken(outbox, 4)
    assert [b.batch_id for b in batches] == ["a", "x-1-account-2", "y-1-account-1", "x-2-account-4"]
    assert outbox.waiting() == (4, 0)


def test_an_unknown_acknowledgement_changes_nothing() -> None:
    """An id that is not waiting, as after a repeated acknowledgement, is ignored."""
    outbox = filled("a")
    outbox.acknowledge("z")
    assert outbox.waiting()[0] == 1


def test_conforming_batches_travel_unchanged() -> None:
    """The bytes on the wire are an Arrow stream of exactly the agent's columns."""
    outbox = filled("a")

    async def take() -> bytes:
        return (await outbox.next_batch()).arrow

    assert ipc.from_bytes(asyncio.run(take())).schema == SCHEMA.agent
