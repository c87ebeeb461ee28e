"""Upserts: rows that wait for their insert are held by key, and the newest of each key wins."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from infrasight.v1.stream_pb2 import Batch, Container
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.containers import ContainerTable, migrate_containers

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
            containers = ContainerTable(store, threads, linger_seconds=0)
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
    rows = list(store.query("SELECT container_id, name FROM containers ORDER BY 1"))[-1]
    assert rows.to_pylist() == [
        {"container_id": b"a", "name": b"newer"},
        {"container_id": b"b", "name": b"newer"},
    ]


def test_row_put_after_an_insert_waits_for_the_next(store: Store) -> None:
    """Its future differs from the first insert's, and is done after a second insert."""
    migrate_containers(store)

    async def upsert() -> None:
        with ThreadPoolExecutor(1) as threads:
            containers = ContainerTable(store, threads, linger_seconds=0)
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
    rows = list(store.query("SELECT name FROM containers FINAL"))[-1]
    assert rows.to_pylist() == [{"name": b"second"}]
