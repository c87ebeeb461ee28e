"""Exactly once, whatever happens to the store, and however often a batch is sent."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.ddl import define_table
from infrasight_server import metrics
from infrasight_server.ingest.enrichment import enrich
from infrasight_server.ingest.memory_budget import MemoryBudget
from infrasight_server.settings import ServerSettings
from infrasight_server.store.migration import migrate_table
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.execve_batches import NODE, SCHEMA, TIME, batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server

MakeSettings = Callable[..., ServerSettings]


def stored_sequences(settings: ServerSettings) -> list[int]:
    """The sequence numbers in the table, sorted, with what is there twice twice."""
    store = settings.open_store()
    found = pa.Table.from_batches(
        store.query("SELECT sequence FROM execve_events ORDER BY sequence")
    )
    store.close()
    return list(found["sequence"].to_pylist())


def test_a_batch_sent_again_is_stored_once(make_settings: MakeSettings) -> None:
    """A repeated batch that is in the store is acknowledged and not inserted; one that is not there is inserted."""
    settings = make_settings()
    repeated = metrics.BATCHES_REPEATED.labels("execve")._value.get()
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("a", table(10)))
        assert agent.answers(1) == {"a": "stored"}
        agent.send(batch("a", table(10), retry=True))
        agent.send(batch("b", table(10, first=10), retry=True))
        assert agent.answers(2) == {"a": "stored", "b": "stored"}
    assert stored_sequences(settings) == list(range(20))
    assert metrics.BATCHES_REPEATED.labels("execve")._value.get() == repeated + 1


def test_the_same_batch_twice_at_once_is_stored_once(make_settings: MakeSettings) -> None:
    """An agent that reconnects sends what still waits for its insert: both streams get an acknowledgement."""
    settings = make_settings(linger_seconds=1.0)
    with (
        running_server(settings, plugins()) as server,
        AgentClient(server.address) as old,
        AgentClient(server.address) as new,
    ):
        for agent in (old, new):
            agent.send(hello())
            agent.answer()
        old.send(batch("first", table(1)))
        assert old.answers(1) == {"first": "stored"}  # the next insert waits for a second
        old.send(batch("a", table(10, first=1)))
        new.send(batch("a", table(10, first=1), retry=True))
        assert old.answers(1) == new.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(11))


def test_half_a_batch_becomes_a_whole_one(make_settings: MakeSettings) -> None:
    """Where an earlier attempt left only some rows, the repeated batch brings all of them, each once; others' rows stay."""
    settings = make_settings()
    store = settings.open_store()
    migrate_table(store, define_table("execve", SCHEMA), None)
    for node, batch_id, rows in ((NODE, "a", table(4)), ("node-2", "a", table(2, first=100))):
        context = EnrichContext("server", "execve", node, batch_id, TIME)
        store.insert("execve_events", enrich(rows, SCHEMA.stored, context, plugins()), batch_id)
    store.close()
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("a", table(10), retry=True))
        assert agent.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == [*range(10), 100, 101]


def test_only_the_batch_that_the_store_rejects_is_refused(make_settings: MakeSettings) -> None:
    """In one insert with others, rows that ClickHouse never takes cost only their own batch."""
    settings = make_settings(linger_seconds=1.0)
    days = pa.array([TIME + day * 86_400_000_000_000 for day in range(150)]).cast(
        SCHEMA.agent.field("time").type
    )
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("alone", table(1)))
        assert agent.answers(1) == {
            "alone": "stored"
        }  # the next three wait a second for their common insert
        agent.send(batch("before", table(1, first=1)))
        agent.send(batch("poison", table(150, first=1000, time=days)))
        agent.send(batch("after", table(1, first=2)))
        assert agent.answers(3) == {
            "before": "stored",
            "poison": "STORE_ERROR",
            "after": "stored",
        }
    assert stored_sequences(settings) == [0, 1, 2]


def test_a_batch_refused_and_stored_later_counts_once(make_settings: MakeSettings) -> None:
    """A server without the probe refuses two batches; one that has it stores one of them: the other alone is rejected."""
    settings = make_settings()
    accounted = "SELECT sum(rejected) AS rejected, sum(a.stored) AS stored FROM accounting AS a WHERE probe = 'execve'"
    with running_server(settings, plugins()):
        pass
    with (
        running_server(settings, plugins({"sample": sample.schema()})) as server,
        AgentClient(server.address) as agent,
    ):
        agent.send(hello())
        agent.answer()
        for batch_id, rows in (("1-5-0-0", 10), ("1-5-0-a", 3)):
            agent.send(batch(batch_id, table(rows)))
            assert agent.answers(1) == {batch_id: "UNKNOWN_PROBE"}
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("1-5-0-0", table(10), retry=True))
        assert agent.answers(1) == {"1-5-0-0": "stored"}
    store = settings.open_store()
    (found,) = list(store.query(accounted))[-1].to_pylist()
    store.close()
    assert found == {"rejected": 3, "stored": 10}


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server of the test's own, to be killed."""
    server = ClickHouseServer(tmp_path / "clickhouse").start()
    yield server
    server.kill()


def test_a_killed_clickhouse_loses_and_doubles_nothing(mortal: ClickHouseServer) -> None:
    """SIGKILL in the middle of inserts, five times: every batch is acknowledged in the end, every row is there once."""
    settings = ServerSettings(
        listen="127.0.0.1:0", status_listen="127.0.0.1:0", store=mortal.url, linger_seconds=0.05
    )
    rounds, batches, rows = 5, 12, 4000
    answers: dict[str, str] = {}
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        for number in range(rounds * batches):
            agent.send(batch(f"b{number}", table(rows, first=number * rows)))
        for _ in range(rounds):
            answers |= agent.answers(batches // 2)
            mortal.kill()
            mortal.start()
        answers |= agent.answers(rounds * batches - len(answers))
    assert answers == {f"b{number}": "stored" for number in range(rounds * batches)}
    assert stored_sequences(settings) == list(range(rounds * batches * rows))


def test_while_the_store_is_away_memory_is_bounded(mortal: ClickHouseServer) -> None:
    """With ClickHouse away, what waits stays under the limit however much is sent; when it is back, all is stored."""
    rows = table(5000)
    size = enrich(
        rows, SCHEMA.stored, EnrichContext("server", "execve", NODE, "b", TIME), plugins()
    ).nbytes
    settings = ServerSettings(
        listen="127.0.0.1:0",
        status_listen="127.0.0.1:0",
        store=mortal.url,
        max_pending_bytes=4 * size,
        linger_seconds=0,
    )
    number = 40
    retries = metrics.INSERT_RETRIES.labels("execve")
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        mortal.kill()
        before = retries._value.get()
        for at in range(number):
            agent.send(batch(f"b{at}", table(5000, first=5000 * at)))
        most = 0.0
        while retries._value.get() < before + 4:
            most = max(most, metrics.PENDING_BYTES._value.get())
        assert 0 < most <= 4 * size
        mortal.start()
        assert set(agent.answers(number).values()) == {"stored"}
    assert stored_sequences(settings) == list(range(5000 * number))


def test_stopping_while_the_store_is_away_acknowledges_nothing(mortal: ClickHouseServer) -> None:
    """The server stops in its time; what it could not store is not acknowledged, and is stored when it is sent again."""
    settings = ServerSettings(
        listen="127.0.0.1:0", status_listen="127.0.0.1:0", store=mortal.url, stop_seconds=0.5
    )
    with running_server(settings, plugins()) as server:
        agent = AgentClient(server.address)
        agent.send(hello())
        agent.answer()
        mortal.kill()
        agent.send(batch("a", table(10)))
    with agent:
        assert agent.rest() == []
    mortal.start()
    with running_server(settings, plugins()) as server, AgentClient(server.address) as again:
        again.send(hello())
        again.answer()
        again.send(batch("a", table(10), retry=True))
        assert again.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(10))


def test_a_budget_makes_its_takers_wait() -> None:
    """No more is held than the limit, but for one that is larger than the limit alone."""

    async def take() -> None:
        budget = MemoryBudget(100)
        await budget.acquire(60)
        waiting = asyncio.create_task(budget.acquire(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.release(60)
        await waiting
        budget.release(60)
        await budget.acquire(1000)
        huge = asyncio.create_task(budget.acquire(1))
        await asyncio.sleep(0)
        assert not huge.done()
        budget.release(1000)
        await huge

    asyncio.run(take())
