"""Updates of containers in the outbox: the newest of each, bounded, until they are acknowledged."""

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
NOTHING_WAITS = (0, 0)


def delivery(batch_id: str) -> Delivery:
    """A batch without rows."""
    batch = pa.RecordBatch.from_pylist([], schema=SCHEMA.agent)
    return Delivery(batch_id, "sample", SCHEMA, batch)


def next_batches(outbox: Outbox, count: int) -> list[Batch]:
    """The next batches that the outbox sends."""

    async def receive() -> list[Batch]:
        return [await outbox.next_batch() for _ in range(count)]

    return asyncio.run(receive())


def update(container_id: str, *, seconds: int = 1_790_000_000, **fields: Any) -> Container:
    """An update of a container."""
    container = Container(container_id=container_id, **fields)
    container.time.FromSeconds(seconds)
    return container


def names(batch: Batch) -> list[tuple[str, bytes]]:
    """The containers of a batch and their names."""
    return [(container.container_id, container.name) for container in batch.containers]


def dropped_updates(reason: str) -> float:
    """How many updates the outbox has dropped so far for a reason."""
    return float(DROPPED_UPDATES.labels(reason)._value.get())


def test_newest_update_of_each_container_is_sent_before_events() -> None:
    """A newer update replaces an unsent one; one batch holds all of them and nothing else."""
    outbox = Outbox(1 << 20)
    outbox.put(delivery("events"))
    outbox.publish([update("a", name=b"1"), update("b", name=b"1")])
    outbox.publish([update("a", name=b"longer", labels={"app": "web"})])
    assert outbox.waiting() == (2, 0)
    updates, events = next_batches(outbox, 2)
    assert names(updates) == [("a", b"longer"), ("b", b"1")]
    assert updates.rows == 0
    assert updates.probe == ""
    assert updates.WhichOneof("body") is None
    assert not updates.HasField("account")
    assert events.batch_id == "events"
    outbox.acknowledge(updates.batch_id)
    outbox.acknowledge(events.batch_id)
    assert outbox.waiting() == NOTHING_WAITS
    assert WAITING_BYTES._value.get() == 0


def test_unacknowledged_updates_are_resent_unless_there_is_a_newer_one() -> None:
    """After a break, the batch holds the old update of one container and the new one of another."""
    outbox = Outbox(1 << 20)
    outbox.publish([update("a", name=b"old"), update("b", name=b"same")])
    (first,) = next_batches(outbox, 1)
    outbox.publish([update("a", name=b"new")])
    outbox.resend_unacknowledged()
    (second,) = next_batches(outbox, 1)
    assert sorted(names(second)) == [("a", b"new"), ("b", b"same")]
    assert second.batch_id != first.batch_id
    outbox.acknowledge(second.batch_id)
    outbox.resend_unacknowledged()
    assert outbox.waiting() == NOTHING_WAITS
    assert WAITING_BYTES._value.get() == 0


def test_batches_of_updates_are_bounded_in_number_and_bytes() -> None:
    """Many updates are sent in several batches, each container once."""
    outbox = Outbox(64 << 20)
    outbox.publish([update(f"small-{n}") for n in range(2 * BATCH_CONTAINERS)])
    outbox.publish([update(f"large-{n}", labels={"a": "v" * 60_000}) for n in range(40)])
    batches = next_batches(outbox, 5)
    assert [len(batch.containers) for batch in batches[:2]] == [BATCH_CONTAINERS] * 2
    assert all(batch.ByteSize() < BATCH_BYTES + 70_000 for batch in batches)
    ids = [container.container_id for batch in batches for container in batch.containers]
    assert len(set(ids)) == len(ids) == 2 * BATCH_CONTAINERS + 40
    assert outbox.waiting() == (5, 0)
    for batch in batches:
        outbox.acknowledge(batch.batch_id)
    assert WAITING_BYTES._value.get() == 0


def test_updates_and_events_share_the_limit() -> None:
    """An update without room is dropped and counted; events find room once updates are stored."""
    outbox = Outbox(70_000)
    before = dropped_updates("outbox_full")
    large = update("a", labels={"a": "v" * 60_000})
    too_large = update("b", labels={"a": "v" * 20_000})
    outbox.publish([large, too_large, update("c")])
    assert dropped_updates("outbox_full") == before + 1
    (batch,) = next_batches(outbox, 1)
    assert [container.container_id for container in batch.containers] == ["a", "c"]
    outbox.publish([update("d", labels={"a": "v" * 9_000})])
    assert outbox.put(delivery("e")) is False
    outbox.acknowledge(batch.batch_id)
    assert outbox.put(delivery("e")) is True


@pytest.mark.parametrize(
    "malformed", [update(""), update("a", name=b"n" * 5000), Container(container_id="a")]
)
def test_malformed_update_is_dropped_alone(malformed: Container) -> None:
    """What the server would reject is counted, and the update beside it is sent."""
    outbox = Outbox(1 << 20)
    before = dropped_updates("malformed")
    outbox.publish([malformed, update("good")])
    assert dropped_updates("malformed") == before + 1
    assert names(next_batches(outbox, 1)[0]) == [("good", b"")]


def test_rejected_updates_are_counted_and_not_resent() -> None:
    """A rejection removes every update of the batch."""
    outbox = Outbox(1 << 20)
    before = dropped_updates("rejected")
    outbox.publish([update("a"), update("b")])
    (batch,) = next_batches(outbox, 1)
    outbox.reject(batch.batch_id, "unknown_probe", "an older server")
    outbox.resend_unacknowledged()
    assert outbox.waiting() == NOTHING_WAITS
    assert dropped_updates("rejected") == before + 2
