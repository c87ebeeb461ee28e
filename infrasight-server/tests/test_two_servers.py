"""Servers that share a ClickHouse server: each batch is stored once, whichever inserts it."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Batch
from infrasight_core.errors import ClaimsChangedError, StoreUnavailableError
from infrasight_core.plugin.context import EnrichContext
from infrasight_server import server as server_module
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_server.store import claims as claims_module
from infrasight_server.store import clickhouse as clickhouse_store
from infrasight_server.store.claims import Claims
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.execve_batches import (
    NODE,
    SCHEMA,
    TIME,
    batch,
    enriched,
    hello,
    plugins,
    table,
)
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.system import until

ROWS = 200


@pytest.fixture
def slow_clickhouse(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server of one test, which the test may pause."""
    server = ClickHouseServer(tmp_path / "clickhouse").start()
    yield server
    server.kill()


def settings_for(clickhouse: ClickHouseServer, **settings: Any) -> ServerSettings:
    """Returns the settings of a server on free ports that uses this ClickHouse server."""
    values = {"store": clickhouse.url, "linger_seconds": 0.02, **settings}
    return ServerSettings(listen="127.0.0.1:0", status_listen="127.0.0.1:0", **values)


def sequences(settings: ServerSettings) -> list[int]:
    """Returns the sorted sequence numbers in the table; a row stored twice shows twice."""
    store = settings.open_store()
    rows = store.rows("SELECT sequence FROM execve_events ORDER BY sequence")
    store.close()
    return [sequence for (sequence,) in rows]


def pending(server: Server) -> int:
    """Returns how many batches wait for their insert."""
    return len(server._writers["execve"]._pending)


def has_batches(server: Server) -> bool:
    """Returns whether some batches wait for their insert."""
    return pending(server) >= 4


class MovingAgent:
    """An agent that sends its unanswered batches again on each new stream, as the outbox does."""

    def __init__(self, node: str, first: int) -> None:
        self.unanswered: dict[str, Batch] = {}
        self.made = 0
        self.moves = 0
        self._node = node
        self._first = first
        self._client: AgentClient | None = None

    def move(self, server: Server) -> None:
        """Opens a stream to a server, and sends all unanswered batches there."""
        self.leave()
        self.moves += 1
        self._client = AgentClient(server.address)
        self._client.send(hello(node=self._node))
        self._client.answer()
        for sent in self.unanswered.values():
            sent.retry = True
            self._client.send(sent)

    def leave(self) -> None:
        """Breaks the stream."""
        if self._client is not None:
            with self._client:
                self._client = None

    def send(self, batches: int) -> None:
        """Sends new batches."""
        assert self._client is not None
        for _ in range(batches):
            batch_id = f"b{self.made}"
            rows = table(ROWS, first=self._first + ROWS * self.made)
            self.unanswered[batch_id] = batch(batch_id, rows)
            self._client.send(self.unanswered[batch_id])
            self.made += 1

    def settle(self, server: Server) -> None:
        """Waits until every batch is answered; opens a new stream if the server ends it."""
        until_time = time.monotonic() + 120
        while self.unanswered:
            assert time.monotonic() < until_time
            try:
                assert self._client is not None
                for batch_id, outcome in self._client.answers(1).items():
                    assert outcome == "stored"
                    self.unanswered.pop(batch_id)
            except (grpc.RpcError, StopIteration):
                time.sleep(0.1)
                self.move(server)


def test_agent_that_moves_while_the_store_is_paused_doubles_nothing(
    slow_clickhouse: ClickHouseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inserts that a server sent before the pause begin when another has the agent already."""
    monkeypatch.setattr(clickhouse_store, "_ANSWER_SECONDS", 1.0)
    settings = settings_for(slow_clickhouse)
    rounds = 6
    with (
        running_server(settings, plugins()) as first,
        running_server(settings, plugins()) as second,
    ):
        agents = [MovingAgent(f"node-{number}", number * 1_000_000) for number in range(3)]
        for number in range(rounds):
            old, new = (first, second) if number % 2 == 0 else (second, first)
            for agent in agents:
                agent.move(old)
                agent.send(4)
                agent.settle(old)
            slow_clickhouse.pause()
            for agent in agents:
                agent.send(4)
            until(partial(has_batches, old), "the server has batches")
            for agent in agents:
                agent.move(new)
            until(partial(has_batches, new), "the other server has them, too")
            time.sleep(number * 0.5)  # inserts time out on some rounds and not on others
            slow_clickhouse.resume()
            for agent in agents:
                agent.settle(new)
        until(lambda: not pending(first) and not pending(second), "no batch waits")
        for agent in agents:
            agent.leave()
    made = [
        number * 1_000_000 + row
        for number, agent in enumerate(agents)
        for row in range(ROWS * agent.made)
    ]
    assert sequences(settings) == made


def complete(first: int, batch_id: str) -> pa.Table:
    """Returns ten rows as the server inserts them."""
    context = EnrichContext("server", "execve", NODE, batch_id, TIME)
    return enriched(table(10, first=first), context, plugins())


def test_insert_that_begins_too_late_inserts_nothing(slow_clickhouse: ClickHouseServer) -> None:
    """After another server's claim, and after a new claim of the same server, by its condition."""
    settings = settings_for(slow_clickhouse)
    store = settings.open_store()
    migrate(store, {"execve": SCHEMA}, None)
    first = Claims("execve", store)
    second = Claims("execve", store)
    began = time.monotonic()
    first.claim({NODE: began})
    store.insert("execve_events", complete(0, "a"), "1", first.condition)
    late = first.condition
    second.claim({NODE: time.monotonic()})
    for condition in (late, first.condition):
        with pytest.raises(ClaimsChangedError):
            store.insert("execve_events", complete(10, "b"), "2", condition)
    first.refresh()
    assert first.take_moved() == {NODE}
    assert first.unclaimed({NODE}) == {NODE}
    late = second.condition
    second.claim({NODE: began})  # its earlier claim, so not one of another server
    with pytest.raises(ClaimsChangedError):
        store.insert("execve_events", complete(10, "b"), "3", late)
    store.insert("execve_events", complete(10, "b"), "4", second.condition)
    store.close()
    assert sequences(settings) == list(range(20))


def test_server_that_an_agent_has_left_claims_nothing_back(
    slow_clickhouse: ClickHouseServer,
) -> None:
    """A claim that is younger than a stream shows that the stream is outdated."""
    store = settings_for(slow_clickhouse).open_store()
    migrate(store, {"execve": SCHEMA}, None)
    first = Claims("execve", store)
    second = Claims("execve", store)
    began = time.monotonic()
    second.claim({NODE: time.monotonic()})
    with pytest.raises(ClaimsChangedError):
        first.claim({NODE: began, "other": began})
    assert first.take_moved() == {NODE}
    first.claim({"other": began})
    first.claim({NODE: time.monotonic()})
    assert not first.unclaimed({NODE, "other"})
    store.close()


def test_claim_waits_for_inserts_that_have_begun(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It returns when they have ended, and fails if they last too long; so in both stores."""
    migrate(store, {"execve": SCHEMA}, None)
    claims = Claims("execve", store)
    slow = threading.Thread(
        target=store.command,
        args=(
            "INSERT INTO `execve_events` (pid) SELECT sleepEachRow(0.1) FROM numbers(80) "
            "SETTINGS max_block_size = 1",
        ),
    )
    slow.start()
    until(lambda: bool(store.running_inserts("execve_events")), "the insert has begun")
    monkeypatch.setattr(claims_module, "_EARLIER_INSERTS_SECONDS", 0.0)
    with pytest.raises(StoreUnavailableError, match="earlier insert"):
        claims.claim({NODE: time.monotonic()})
    monkeypatch.setattr(claims_module, "_EARLIER_INSERTS_SECONDS", 60.0)
    claims.claim({NODE: time.monotonic()})
    assert not store.running_inserts("execve_events")
    slow.join()


def test_agent_of_two_servers_stores_every_batch_once(slow_clickhouse: ClickHouseServer) -> None:
    """An agent that moves back and forth is answered on its new stream each time."""
    settings = settings_for(slow_clickhouse)
    agent = MovingAgent(NODE, 0)
    with (
        running_server(settings, plugins()) as first,
        running_server(settings, plugins()) as second,
    ):
        for server in (first, second) * 4:
            agent.move(server)
            agent.send(3)
        agent.settle(second)
        agent.leave()
        until(lambda: not pending(first) and not pending(second), "no batch waits")
    assert sequences(settings) == list(range(ROWS * agent.made))


def test_moved_batches_are_not_rejected(slow_clickhouse: ClickHouseServer) -> None:
    """A server whose node another has claimed ends the stream; the agent sends them again."""
    settings = settings_for(slow_clickhouse)
    with running_server(settings, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("a", table(10)))
        assert agent.answers(1) == {"a": "stored"}
        store = settings.open_store()
        Claims("execve", store).claim({NODE: time.monotonic()})
        store.close()
        agent.send(batch("b", table(10, first=10)))
        with pytest.raises(grpc.RpcError) as raised:
            agent.answer()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        with AgentClient(server.address) as new_stream:
            new_stream.send(hello())
            new_stream.answer()
            new_stream.send(batch("b", table(10, first=10), retry=True))
            assert new_stream.answers(1) == {"b": "stored"}
    assert sequences(settings) == list(range(20))


def test_streams_end_in_order_so_that_agents_spread(
    slow_clickhouse: ClickHouseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream ends after its lifetime; what it brought is answered, and nothing is doubled."""
    monkeypatch.setattr(server_module, "STREAM_SECONDS", 1.0)
    settings = settings_for(slow_clickhouse)
    agent = MovingAgent(NODE, 0)
    with running_server(settings, plugins()) as server:
        with AgentClient(server.address) as idle:
            idle.send(hello(node="idle"))
            idle.answer()
            with pytest.raises(StopIteration):  # without an error
                idle.answer()
        agent.move(server)
        while agent.moves < 4:  # streams end between batches and beside them
            agent.send(3)
            agent.settle(server)
        agent.leave()
    assert sequences(settings) == list(range(ROWS * agent.made))
