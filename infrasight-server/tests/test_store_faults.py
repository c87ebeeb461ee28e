"""Faults of a ClickHouse server: what is acknowledged stays, nothing is doubled, writers go on."""

import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Account
from infrasight_core.errors import StoreUnavailableError
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.ddl import define_table
from infrasight_server.query.watchers import Watchers
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_server.store import batch_writer
from infrasight_server.store.batch_writer import BatchWriter
from infrasight_server.store.clickhouse import BatchSummary, Store
from infrasight_server.store.migration import migrate_table
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.clickhouse_users import users_with
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
from infrasight_testbed.small_disk import SmallDisk
from infrasight_testbed.system import until

MakeSettings = Callable[..., ServerSettings]
ALL_RIGHTS = "<query>GRANT ALL ON *.*</query>"
NO_INSERTS = ALL_RIGHTS + "<query>REVOKE INSERT ON *.*</query>"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def settings_for(clickhouse: ClickHouseServer, **settings: Any) -> ServerSettings:
    """Returns the settings of a server on free ports that uses this ClickHouse server."""
    return ServerSettings(
        listen="127.0.0.1:0",
        status_listen="127.0.0.1:0",
        **{"store": clickhouse.url, "linger_seconds": 0.05, **settings},
    )


def complete(rows: pa.Table, batch_id: str) -> pa.Table:
    """Returns agent columns with the server's, as the server inserts them."""
    context = EnrichContext("server", "execve", NODE, batch_id, TIME)
    return enriched(rows, context, plugins())


def connected(server: Server, node: str = NODE) -> AgentClient:
    """Returns an agent that the server has welcomed."""
    agent = AgentClient(server.address)
    agent.send(hello(node=node))
    agent.answer()
    return agent


def readyz(server: Server) -> tuple[int, str]:
    """Returns status and text of the page."""
    try:
        with urllib.request.urlopen(
            f"http://{server.status_address}/readyz", timeout=60
        ) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until_not_ready(server: Server, *reasons: str) -> None:
    """Waits until `/readyz` reports all of these."""

    def reports() -> bool:
        status, text = readyz(server)
        return status == 503 and all(reason in text for reason in reasons)

    until(reports, f"/readyz reports {reasons}")


def sequences(settings: ServerSettings) -> list[int]:
    """Returns the sorted sequence numbers in the table; a row stored twice shows twice."""
    store = settings.open_store()
    rows = store.rows("SELECT sequence FROM execve_events ORDER BY sequence")
    store.close()
    return [sequence for (sequence,) in rows]


@pytest.fixture
def database() -> str:
    """The name of a database that does not exist."""
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
def clickhouse_with_writer(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A ClickHouse server with a user `writer`."""
    folder = tmp_path / "clickhouse"
    folder.mkdir()
    (folder / "users.xml").write_text(users_with("writer", ALL_RIGHTS))
    (folder / "config.xml").write_text(
        f"<clickhouse><path>{folder}/data/</path><user_directories><users_xml>"
        f"<path>{folder}/users.xml</path></users_xml></user_directories></clickhouse>"
    )
    server = ClickHouseServer(folder, f"--config-file={folder}/config.xml").start()
    yield server
    server.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 64 MiB."""
    with SmallDisk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def clickhouse_on_small_disk(small_disk: SmallDisk) -> Iterator[ClickHouseServer]:
    """A ClickHouse server whose data are on the small disk."""
    server = ClickHouseServer(small_disk.folder / "clickhouse").start()
    yield server
    server.kill()


@root_only
def test_full_disk_hides_no_stored_batch(
    small_disk: SmallDisk, clickhouse_on_small_disk: ClickHouseServer
) -> None:
    """A query on a full disk shows what is stored; with an empty answer, it would be doubled."""
    store = settings_for(clickhouse_on_small_disk).open_store()
    migrate_table(store, define_table("execve", SCHEMA), None)
    store.insert("execve_events", complete(table(3), "a"), "1")
    small_disk.fill()
    summaries = store.stored_batches("execve_events", [NODE], ["a", "b"])
    assert summaries == {(NODE, "a"): BatchSummary(3, TIME, TIME + 2_000, 3)}
    with pytest.raises(StoreUnavailableError, match="not enough space"):
        store.insert("execve_events", complete(table(3), "b"), "2")
    small_disk.free()
    store.insert("execve_events", complete(table(3), "b"), "3")
    store.close()


@root_only
def test_full_disk_stops_no_writer(
    small_disk: SmallDisk, clickhouse_on_small_disk: ClickHouseServer
) -> None:
    """On a full disk batches wait, `/readyz` says why, and later every row is stored once."""
    settings = settings_for(clickhouse_on_small_disk)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", table(10)))
        assert agent.answers(1) == {"a": "stored"}
        small_disk.fill()
        agent.send(batch("b", table(10, first=10)))
        until_not_ready(server, "table execve_events: no insert since", "10 rows wait", "space")
        with connected(server) as second_stream:
            second_stream.send(batch("a", table(10), retry=True))
            second_stream.send(batch("c", table(10, first=20)))
            until_not_ready(server, "30 rows wait")
            small_disk.free()
            assert second_stream.answers(2) == {"a": "stored", "c": "stored"}
        assert agent.answers(1) == {"b": "stored"}
        until(lambda: readyz(server)[0] == 200, "the server is ready")
    assert sequences(settings) == list(range(30))


def test_user_without_rights_stops_no_writer(
    clickhouse_with_writer: ClickHouseServer, tmp_path: Path
) -> None:
    """While the server's user may not insert, batches and accounts wait; none is rejected."""
    settings = settings_for(clickhouse_with_writer)
    users = tmp_path / "clickhouse" / "users.xml"
    url = clickhouse_with_writer.url.replace("//", "//writer@")
    account = Account(run="r", window=WINDOW, number=1, seen=10, submitted=10, read=10)

    def restart_with(grants: str) -> None:
        clickhouse_with_writer.kill()
        users.write_text(users_with("writer", grants))
        clickhouse_with_writer.start()

    with (
        running_server(settings_for(clickhouse_with_writer, store=url), plugins()) as server,
        connected(server) as agent,
    ):
        restart_with(NO_INSERTS)
        agent.send(batch(f"r-{WINDOW}-0-0", table(10), account=account))
        until_not_ready(server, "table execve_events", "10 rows wait", "Not enough privileges")
        restart_with(ALL_RIGHTS)
        assert agent.answers(1) == {f"r-{WINDOW}-0-0": "stored"}
        assert server._store.rows("SELECT seen FROM accounts FINAL") == [(10,)]
    assert sequences(settings) == list(range(10))


@pytest.mark.parametrize("deleted", ["TABLE infrasight.execve_events", "DATABASE infrasight"])
def test_deleted_table_is_created_again(
    clickhouse: ClickHouseServer, database: str, deleted: str
) -> None:
    """The rows that wait are stored in the new table, and their accounts too."""
    settings = settings_for(clickhouse, database=database)
    account = Account(run="r", window=WINDOW, number=1, seen=10, submitted=10, read=10)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("before", table(10)))
        assert agent.answers(1) == {"before": "stored"}
        server._store.command(f"DROP {deleted.replace('infrasight', database)} SYNC")
        agent.send(batch(f"r-{WINDOW}-0-0", table(10, first=10), account=account))
        assert agent.answers(1) == {f"r-{WINDOW}-0-0": "stored"}
        accounts = server._store.rows("SELECT seen FROM accounts FINAL WHERE run = 'r'")
        assert accounts == [(10,)]
        until(lambda: readyz(server)[0] == 200, "the server is ready")
    assert sequences(settings) == list(range(10, 20))


def test_altered_table_makes_batches_wait(clickhouse: ClickHouseServer, database: str) -> None:
    """A column that is dropped by hand costs no batch and no account; they are stored later."""
    settings = settings_for(clickhouse, database=database)
    account = Account(run="r", window=WINDOW, number=1, seen=10, submitted=10, read=10)
    batch_id = f"r-{WINDOW}-0-0"
    with (
        running_server(settings, plugins()) as server,
        connected(server) as agent,
        connected(server, "node-2") as other_agent,
    ):
        server._store.command("ALTER TABLE execve_events RENAME COLUMN tid TO renamed")
        server._store.command("ALTER TABLE accounts RENAME COLUMN seen TO renamed")
        agent.send(batch(batch_id, table(10), account=account))
        other_agent.send(batch("b", table(10, first=10)))
        until_not_ready(server, "table execve_events", "20 rows wait", "tid")
        server._store.command("ALTER TABLE execve_events RENAME COLUMN renamed TO tid")
        other_agent.send(batch("c", table(10, first=20)))
        assert other_agent.answers(2) == {"b": "stored", "c": "stored"}
        until_not_ready(server, "table accounts", "1 rows wait", "seen")
        server._store.command("ALTER TABLE accounts RENAME COLUMN renamed TO seen")
        assert agent.answers(1) == {batch_id: "stored"}
        accounts = server._store.rows("SELECT seen FROM accounts FINAL WHERE run = 'r'")
        assert accounts == [(10,)]
    assert sequences(settings) == list(range(30))


def test_unexpected_error_rejects_no_batch(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often an insert fails in an unforeseen way, its batch waits, and is then stored."""
    insert = Store.insert
    failures: list[str] = []

    def fail(store: Store, name: str, *arguments: Any) -> None:
        if name == "execve_events" and len(failures) < 10:
            failures.append(name)
            raise IndexError("unforeseen")
        insert(store, name, *arguments)

    monkeypatch.setattr(batch_writer, "_SUSPECT_SECONDS", 0.05)
    settings = make_settings(linger_seconds=0)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        monkeypatch.setattr(Store, "insert", fail)
        agent.send(batch("a", table(10)))
        agent.send(batch("b", table(10, first=10)))
        assert agent.answers(2) == {"a": "stored", "b": "stored"}
        assert len(failures) == 10
    assert sequences(settings) == list(range(20))


def test_batch_is_rejected_only_beside_one_that_is_stored(make_settings: MakeSettings) -> None:
    """A batch that the store rejects waits, until the store takes another: then it is at fault."""
    settings = make_settings(linger_seconds=0)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        server._store.command("ALTER TABLE execve_events ADD CONSTRAINT c CHECK sequence != 1000")
        agent.send(batch("bad", table(1, first=1000)))
        until_not_ready(server, "table execve_events", "1 rows wait", "onstraint")
        with connected(server, "node-2") as other_agent:
            other_agent.send(batch("good", table(1)))
            assert other_agent.answers(1) == {"good": "stored"}
        assert agent.answers(1) == {"bad": "STORE_ERROR"}
        assert readyz(server)[0] == 200
    assert sequences(settings) == [0]


@pytest.mark.parametrize("failing", [(Watchers, "publish"), (BatchWriter, "_complete")])
def test_unforeseen_failure_costs_no_answer(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, failing: tuple[type, str]
) -> None:
    """A watcher fails when a batch arrives, or the writer after its insert: each is answered."""
    owner, name = failing
    original = getattr(owner, name)
    failed: list[object] = []

    def fail_once(*arguments: object) -> object:
        if not failed:
            failed.append(arguments)
            raise RuntimeError("unforeseen")
        return original(*arguments)

    monkeypatch.setattr(owner, name, fail_once)
    settings = make_settings(linger_seconds=0)
    with running_server(settings, plugins()) as server, connected(server) as agent:
        agent.send(batch("a", table(10)))
        agent.send(batch("b", table(10, first=10)))
        assert agent.answers(2) == {"a": "stored", "b": "stored"}
        assert failed
    assert sequences(settings) == list(range(20))
