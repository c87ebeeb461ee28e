"""Each batch is stored exactly once, whatever happens to the store and however often it is sent."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Account
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.ddl import define_table
from infrasight_server import metrics
from infrasight_server.ingest.memory_budget import MemoryBudget
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_server.store.accounts import AccountTables
from infrasight_server.store.migration import migrate_table
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.execve_batches import (
    NODE,
    SCHEMA,
    TIME,
    WINDOW,
    batch,
    enriched,
    hello,
    plugins,
    table,
)
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.system import until

MakeSettings = Callable[..., ServerSettings]


def connected(server: Server) -> AgentClient:
    """Returns an agent that the server has welcomed."""
    agent = AgentClient(server.address)
    agent.send(hello())
    agent.answer()
    return agent


def stored_sequences(settings: ServerSettings) -> list[int]:
    """Returns the sorted sequence numbers in the table; a row stored twice shows twice."""
    store = settings.open_store()
    pieces = store.query("SELECT sequence FROM execve_events ORDER BY sequence")
    sequences = pa.Table.from_batches(pieces)["sequence"].to_pylist()
    store.close()
    return list(sequences)


def complete(rows: pa.Table, node: str = NODE, batch_id: str = "b") -> pa.Table:
    """Returns agent columns with the server's, as the server inserts them."""
    context = EnrichContext("server", "execve", node, batch_id, TIME)
    return enriched(rows, context, plugins())


def count(metric: Any) -> float:
    """Returns the value of a counter or gauge."""
    return float(metric._value.get())


def test_batch_sent_again_is_stored_once(make_settings: MakeSettings) -> None:
    """A repeated batch that is stored is acknowledged without an insert; another is inserted."""
    settings = make_settings()
    repeated = metrics.BATCHES_REPEATED.labels("execve")
    repeated_before = count(repeated)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", table(10)))
        assert agent.answers(1) == {"a": "stored"}
        agent.send(batch("a", table(10), retry=True))
        agent.send(batch("b", table(10, first=10), retry=True))
        assert agent.answers(2) == {"a": "stored", "b": "stored"}
    assert stored_sequences(settings) == list(range(20))
    assert count(repeated) == repeated_before + 1


def test_batch_sent_again_while_it_waits_is_stored_once(make_settings: MakeSettings) -> None:
    """An agent reconnects while its batch waits for the insert: both streams are acknowledged."""
    settings = make_settings(linger_seconds=1.0)
    with (
        running_server(settings, plugins()) as server,
        connected(server) as old_stream,
        connected(server) as new_stream,
    ):
        old_stream.send(batch("first", table(1)))
        assert old_stream.answers(1) == {"first": "stored"}  # the next insert waits for a second
        old_stream.send(batch("a", table(10, first=1)))
        new_stream.send(batch("a", table(10, first=1), retry=True))
        assert old_stream.answers(1) == {"a": "stored"}
        assert new_stream.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(11))


def test_account_of_a_batch_survives_the_end_of_its_stream(make_settings: MakeSettings) -> None:
    """An agent that is killed before its batch is stored leaves no rows without an account."""
    settings = make_settings(linger_seconds=1.0)
    received = metrics.BATCHES_RECEIVED.labels("execve")
    account = Account(run="r", window=WINDOW, number=1, seen=10, submitted=10, read=10)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("first", table(1)))
        assert agent.answers(1) == {"first": "stored"}  # the next insert waits for a second
        received_before = count(received)
        agent.send(batch(f"r-{WINDOW}-0-0", table(10, first=1), account=account))
        until(lambda: count(received) > received_before, "the server has read the batch")
    store = settings.open_store()
    sql = "SELECT stored, difference FROM accounting WHERE run = 'r'"
    rows = pa.Table.from_batches(store.query(sql)).to_pylist()
    store.close()
    assert rows == [{"stored": 10, "difference": 0}]


def test_partly_stored_batch_is_completed(make_settings: MakeSettings) -> None:
    """Where an earlier attempt left some rows, a repeated batch stores all of them, each once."""
    settings = make_settings()
    store = settings.open_store()
    migrate_table(store, define_table("execve", SCHEMA), None)
    store.insert("execve_events", complete(table(4), NODE, "a"), "1")
    store.insert("execve_events", complete(table(2, first=100), "node-2", "a"), "2")
    store.close()
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", table(10), retry=True))
        assert agent.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == [*range(10), 100, 101]


def test_batch_stored_in_some_partitions_is_completed(make_settings: MakeSettings) -> None:
    """Of an insert that was interrupted between two days, only the missing days are inserted."""
    settings = make_settings()
    day = 86_400 * 10**9
    times = pa.array([TIME - number % 3 * day for number in range(12)])
    rows = table(12, time=times.cast(SCHEMA.agent.field("time").type))
    first_day = rows.take([number for number in range(12) if number % 3 == 1])
    store = settings.open_store()
    migrate_table(store, define_table("execve", SCHEMA), None)
    store.insert("execve_events", complete(first_day, NODE, "a"), "1")
    store.close()
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", rows, retry=True))
        assert agent.answers(1) == {"a": "stored"}
        agent.send(batch("a", rows, retry=True))
        assert agent.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(12))


def test_batch_with_other_rows_than_those_stored_changes_nothing(
    make_settings: MakeSettings,
) -> None:
    """More, fewer or other rows with a known id are a conflict, which is counted."""
    settings = make_settings()
    conflicts = metrics.BATCHES_CONFLICTING.labels("execve")
    before = count(conflicts)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", table(10)))
        assert agent.answers(1) == {"a": "stored"}
        for rows in (table(3), table(20, first=5), table(10, first=50)):
            agent.send(batch("a", rows, retry=True))
            assert agent.answers(1) == {"a": "CONFLICT"}
        agent.send(batch("a", table(10), retry=True))
        assert agent.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(10))
    assert count(conflicts) == before + 3


def test_only_the_batch_that_the_store_rejects_is_rejected(make_settings: MakeSettings) -> None:
    """Of several batches in one insert, the one that ClickHouse rejects is the only one missing."""
    settings = make_settings(linger_seconds=1.0)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        store = settings.open_store() if settings.store != "embedded" else server._store
        store.command("ALTER TABLE execve_events ADD CONSTRAINT c CHECK sequence != 1000")
        agent.send(batch("alone", table(1)))
        assert agent.answers(1) == {"alone": "stored"}  # the next three share one insert
        agent.send(batch("before", table(1, first=1)))
        agent.send(batch("poison", table(150, first=1000)))
        agent.send(batch("after", table(1, first=2)))
        assert agent.answers(3) == {
            "before": "stored",
            "poison": "STORE_ERROR",
            "after": "stored",
        }
    assert stored_sequences(settings) == [0, 1, 2]


def test_batch_that_is_rejected_and_later_stored_counts_once(make_settings: MakeSettings) -> None:
    """A server without the probe rejects two batches, one with it stores one: one is rejected."""
    settings = make_settings()
    sql = "SELECT sum(rejected), sum(a.stored) FROM accounting AS a WHERE probe = 'execve'"
    with running_server(settings, plugins()):
        pass  # creates the tables
    other_plugins = plugins({"sample": sample.schema()})
    with running_server(settings, other_plugins) as server, connected(server) as agent:
        for batch_id, rows in ((f"1-{WINDOW}-0-0", 10), (f"1-{WINDOW}-0-a", 3)):
            agent.send(batch(batch_id, table(rows)))
            assert agent.answers(1) == {batch_id: "UNKNOWN_PROBE"}
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch(f"1-{WINDOW}-0-0", table(10), retry=True))
        assert agent.answers(1) == {f"1-{WINDOW}-0-0": "stored"}
    store = settings.open_store()
    (totals,) = list(store.query(sql))[-1].to_pylist()
    store.close()
    assert list(totals.values()) == [3, 10]


@pytest.fixture
def mortal_clickhouse(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server of one test, which the test may kill."""
    server = ClickHouseServer(tmp_path / "clickhouse").start()
    yield server
    server.kill()


def settings_for(clickhouse: ClickHouseServer, **settings: Any) -> ServerSettings:
    """Returns the settings of a server on free ports that uses this ClickHouse server."""
    return ServerSettings(
        listen="127.0.0.1:0", status_listen="127.0.0.1:0", store=clickhouse.url, **settings
    )


def test_killed_clickhouse_drops_and_duplicates_nothing(
    mortal_clickhouse: ClickHouseServer,
) -> None:
    """After five SIGKILLs during inserts every batch is acknowledged and every row stored once."""
    settings = settings_for(mortal_clickhouse, linger_seconds=0.05)
    kills = 5
    batches = 60
    rows = 4000
    answers: dict[str, str] = {}
    with running_server(settings, plugins()) as server, connected(server) as agent:
        for number in range(batches):
            agent.send(batch(f"b{number}", table(rows, first=number * rows)))
        for _ in range(kills):
            answers |= agent.answers(6)
            mortal_clickhouse.kill()
            mortal_clickhouse.start()
        answers |= agent.answers(batches - len(answers))
    assert answers == {f"b{number}": "stored" for number in range(batches)}
    assert stored_sequences(settings) == list(range(batches * rows))


def test_memory_is_bounded_while_the_store_is_unavailable(
    mortal_clickhouse: ClickHouseServer,
) -> None:
    """Pending batches fill the budget, never exceed it, and are stored when ClickHouse is back."""
    rows = 5000
    batches = 40
    size = complete(table(rows)).nbytes
    settings = settings_for(mortal_clickhouse, max_pending_bytes=6 * size, linger_seconds=0)
    retries = metrics.INSERT_RETRIES.labels("execve")
    with running_server(settings, plugins()) as server, connected(server) as agent:
        mortal_clickhouse.kill()
        retries_before = count(retries)
        for number in range(batches):
            agent.send(batch(f"b{number}", table(rows, first=rows * number)))
        sampled = []

        def has_filled_the_budget() -> bool:
            sampled.append(count(metrics.PENDING_BYTES))
            return sampled[-1] > 3 * size and count(retries) >= retries_before + 4

        until(has_filled_the_budget, "the budget is used and inserts are retried")
        assert max(sampled) <= 6 * size * 3 / 4  # one node's share
        mortal_clickhouse.start()
        assert set(agent.answers(batches).values()) == {"stored"}
    assert stored_sequences(settings) == list(range(rows * batches))


def test_server_stopped_without_a_store_acknowledges_nothing(
    mortal_clickhouse: ClickHouseServer,
) -> None:
    """The server stops in time; a batch it could not store is stored when it is sent again."""
    settings = settings_for(mortal_clickhouse, stop_seconds=0.5)
    with running_server(settings, plugins()) as server:
        agent = connected(server)
        mortal_clickhouse.kill()
        agent.send(batch("a", table(10)))
    with agent:
        assert agent.rest() == []
    mortal_clickhouse.start()
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", table(10), retry=True))
        assert agent.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(10))


def test_stream_ends_when_a_batch_cannot_be_answered(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent then sends it again; without an end it would wait for its answer indefinitely."""

    async def fail(*arguments: object) -> None:
        raise OverflowError("unexpected")

    settings = make_settings()
    with running_server(settings, plugins()) as server:
        with monkeypatch.context() as patched, connected(server) as agent:
            patched.setattr(AccountTables, "record", fail)
            agent.send(batch("a", table(10)))
            with pytest.raises(grpc.RpcError) as raised:
                agent.answer()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        with connected(server) as agent:
            agent.send(batch("a", table(10), retry=True))
            assert agent.answers(1) == {"a": "stored"}
    assert stored_sequences(settings) == list(range(10))


def test_memory_budget_makes_a_second_batch_wait() -> None:
    """The limit is not exceeded, except by a single batch that is larger than the limit."""

    async def acquire_and_release() -> None:
        budget = MemoryBudget(100)
        await budget.acquire("a", 60)
        second = asyncio.create_task(budget.acquire("b", 60))
        await asyncio.sleep(0)
        assert not second.done()
        budget.release("a", 60)
        await second
        budget.release("b", 60)
        await budget.acquire("a", 1000)
        small = asyncio.create_task(budget.acquire("b", 1))
        await asyncio.sleep(0)
        assert not small.done()
        budget.release("a", 1000)
        await small

    asyncio.run(acquire_and_release())


def test_memory_budget_serves_the_others_when_a_waiter_is_cancelled() -> None:
    """A batch that is cancelled in the moment in which memory is freed delays no other."""

    async def cancel_and_release() -> None:
        budget = MemoryBudget(100)
        await budget.acquire("a", 60)
        cancelled = asyncio.create_task(budget.acquire("b", 60))
        waiting = asyncio.create_task(budget.acquire("c", 60))
        await asyncio.sleep(0)
        cancelled.cancel()
        budget.release("a", 60)
        await asyncio.wait_for(waiting, 10)
        assert cancelled.cancelled()

    asyncio.run(cancel_and_release())
