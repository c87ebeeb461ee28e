"""Upserts: rows that wait for their insert are held by key, and the newest of each key wins."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Batch, Container
from infrasight_core.errors import StoreError, StoreUnavailableError
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.containers import ContainerTable, migrate_containers
from infrasight_server.store.errors import store_errors

NODE = "node-1"


def update(container_id: str, name: bytes, seconds: int) -> Batch:
    """Returns a batch with one container update."""
    container = Container(container_id=container_id, name=name)
    container.time.FromSeconds(seconds)
    return Batch(batch_id="b", containers=[container])


def test_newest_waiting_row_of_each_key_is_inserted(store: Store) -> None:
    """Of four updates before one insert, the newest of each container is stored, in any order."""
    migrate_containers(store)

    async def upsert() -> None:
        with ThreadPoolExecutor(1) as threads:
            containers = ContainerTable(store, threads, 0, lambda: None)
            inserts = {
                containers.upsert(NODE, update("a", b"newer", 9)),
                containers.upsert(NODE, update("a", b"older", 5)),
                containers.upsert(NODE, update("b", b"older", 5)),
                containers.upsert(NODE, update("b", b"newer", 9)),
            }
            assert len(inserts) == 1
            containers.writer.close()
            await containers.writer.run()
            assert all(insert.done() for insert in inserts)

    asyncio.run(upsert())
    rows = pa.Table.from_batches(
        store.query("SELECT container_id, name FROM containers ORDER BY 1")
    )
    assert rows.to_pylist() == [
        {"container_id": b"a", "name": b"newer"},
        {"container_id": b"b", "name": b"newer"},
    ]


def test_row_put_after_an_insert_waits_for_the_next(store: Store) -> None:
    """Its future differs from the first insert's, and is done after a second insert."""
    migrate_containers(store)

    async def upsert() -> None:
        with ThreadPoolExecutor(1) as threads:
            containers = ContainerTable(store, threads, 0, lambda: None)
            running = asyncio.create_task(containers.writer.run())
            first = containers.upsert(NODE, update("a", b"first", 1))
            await first
            second = containers.upsert(NODE, update("a", b"second", 2))
            assert second is not first
            assert not second.done()
            await second
            containers.writer.close()
            await running

    asyncio.run(upsert())
    rows = pa.Table.from_batches(store.query("SELECT name FROM containers FINAL"))
    assert rows.to_pylist() == [{"name": b"second"}]


@pytest.mark.parametrize(
    "bad", [{"time": 1 << 70}, {"name": object()}, {"labels": 5}], ids=["number", "object", "list"]
)
def test_row_that_the_store_cannot_hold_is_left_out_alone(
    store: Store, bad: dict[str, Any]
) -> None:
    """The rows beside it are stored, their futures are done, and the writer goes on."""
    migrate_containers(store)

    async def upsert() -> None:
        with ThreadPoolExecutor(1) as threads:
            containers = ContainerTable(store, threads, 0, lambda: None)
            for name in ("a", "b", "c", "d"):
                stored = containers.upsert(NODE, update(name, name.encode(), 9))
            row = {"node": NODE, "container_id": "bad", "time": 9} | bad
            containers.writer.put("containers", (NODE, "bad"), row)
            running = asyncio.create_task(containers.writer.run())
            await stored
            await containers.upsert(NODE, update("e", b"e", 9))
            containers.writer.close()
            await running

    asyncio.run(upsert())
    rows = pa.Table.from_batches(
        store.query("SELECT container_id AS id FROM containers FINAL ORDER BY 1")
    )
    assert rows.to_pylist() == [{"id": name} for name in (b"a", b"b", b"c", b"d", b"e")]


def test_row_that_the_store_rejects_is_left_out_alone(store: Store) -> None:
    """A constraint of the table costs the row that violates it."""
    migrate_containers(store)
    store.command("ALTER TABLE containers ADD CONSTRAINT c CHECK container_id != 'bad'")

    async def upsert() -> None:
        with ThreadPoolExecutor(1) as threads:
            containers = ContainerTable(store, threads, 0, lambda: None)
            for name in ("a", "bad", "c"):
                stored = containers.upsert(NODE, update(name, name.encode(), 9))
            containers.writer.close()
            await containers.writer.run()
            assert stored.done()

    asyncio.run(upsert())
    rows = pa.Table.from_batches(
        store.query("SELECT container_id AS id FROM containers FINAL ORDER BY 1")
    )
    assert rows.to_pylist() == [{"id": b"a"}, {"id": b"c"}]


def test_unusable_answer_of_the_store_is_no_permanent_error() -> None:
    """An empty answer makes the client fail somewhere; the statement is repeated."""
    empty: list[tuple[int]] = []
    with pytest.raises(StoreUnavailableError, match="IndexError"), store_errors():
        empty[0]
    with pytest.raises(StoreError, match="permanent"), store_errors():
        raise StoreError("permanent")
