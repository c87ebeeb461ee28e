"""The outbox holds each batch until it is acknowledged, and counts what it cannot hold."""

import asyncio

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
from infrasight.v1.stream_pb2 import Account, Batch
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.sink import Delivery
from infrasight_core.net import ipc

SCHEMA = sample.schema()
NO_ROWS = pa.RecordBatch.from_pylist([], schema=SCHEMA.agent)


def delivery(batch_id: str) -> Delivery:
    """A batch without rows."""
    return Delivery(batch_id, "sample", SCHEMA, NO_ROWS)


def outbox_of(*batch_ids: str) -> Outbox:
    """An outbox that holds these batches."""
    outbox = Outbox(1 << 20)
    for batch_id in batch_ids:
        outbox.put(delivery(batch_id))
    return outbox


def next_batches(outbox: Outbox, count: int) -> list[Batch]:
    """The next batches that the outbox sends."""

    async def receive() -> list[Batch]:
        return [await outbox.next_batch() for _ in range(count)]

    return asyncio.run(receive())


def send(outbox: Outbox, count: int) -> list[tuple[str, bool]]:
    """The ids of the next batches, and whether each is marked as a retry."""
    return [(batch.batch_id, batch.retry) for batch in next_batches(outbox, count)]


def test_outbox_sends_batches_in_order_and_once() -> None:
    """First in, first out; an acknowledged batch is gone."""
    outbox = outbox_of("a", "b", "c")
    assert send(outbox, 2) == [("a", False), ("b", False)]
    outbox.acknowledge("a")
    assert outbox.waiting()[0] == 2
    assert send(outbox, 1) == [("c", False)]


def test_outbox_resends_unacknowledged_batches_first() -> None:
    """After a break, sent batches come first and are marked as retries; the others follow."""
    outbox = outbox_of("a", "b", "c")
    send(outbox, 2)
    outbox.acknowledge("a")
    outbox.resend_unacknowledged()
    assert send(outbox, 2) == [("b", True), ("c", False)]


def test_outbox_does_not_resend_a_rejected_batch() -> None:
    """A rejection removes the batch."""
    outbox = outbox_of("a")
    send(outbox, 1)
    outbox.reject("a", "malformed", "why")
    outbox.resend_unacknowledged()
    assert outbox.waiting() == (0, 0)


def test_full_outbox_reports_the_batch_as_not_accepted() -> None:
    """A batch without room is not accepted; an account needs no room."""
    outbox = Outbox(len(ipc.to_frame(NO_ROWS)))
    assert outbox.put(delivery("a")) is True
    assert outbox.put(delivery("b")) is False
    outbox.put_account("sample", Account(run="r", window=1, number=1, outbox_full=3))
    assert [batch.account.outbox_full for batch in next_batches(outbox, 2)] == [0, 3]


def test_newer_account_replaces_an_unsent_one_of_its_window() -> None:
    """Of a window's unsent accounts only the newest is sent; other windows and probes stay."""
    outbox = outbox_of("a")
    for probe, window, number in (("x", 1, 1), ("x", 1, 2), ("y", 1, 1), ("x", 2, 3), ("x", 2, 4)):
        outbox.put_account(probe, Account(run=probe, window=window, number=number))
    ids = [batch.batch_id for batch in next_batches(outbox, 4)]
    assert ids == ["a", "x-1-account-2", "y-1-account-1", "x-2-account-4"]
    assert outbox.waiting() == (4, 0)


def test_outbox_ignores_the_acknowledgement_of_an_unknown_batch() -> None:
    """An id that does not wait, as in a repeated acknowledgement, changes nothing."""
    outbox = outbox_of("a")
    outbox.acknowledge("z")
    assert outbox.waiting()[0] == 1


def test_outbox_encodes_the_agents_columns() -> None:
    """The body of a batch is an Arrow stream with exactly the agent's schema."""
    (batch,) = next_batches(outbox_of("a"), 1)
    assert ipc.from_frame(batch.arrow).schema == SCHEMA.agent
