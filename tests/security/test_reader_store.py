"""Attacks by statements that have passed the judgement of queries: what the store itself permits.

The statements reach the store without the guard (`Store.query`), or even as the server's own
statements (`Store.command`), so that the layers beneath are attacked alone.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from infrasight_core.errors import InfraSightError, QueryError, StoreError
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import Store
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.cgroups import children_with_memory
from infrasight_testbed.execve_batches import batch, hello, table
from infrasight_testbed.system import Process, System, running_system, until

HUGE = "SELECT length(groupArray(number)) FROM numbers(3000000000)"
SECONDS = 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open embedded store; beside its folder, a key of the server."""
    (tmp_path / "key.pem").write_text("PRIVATE KEY")
    opened = ServerSettings(data=tmp_path, database="test").open_store()
    yield opened
    opened.close()


def answer(store: Store, sql: str) -> list[dict[str, object]]:
    """Returns the rows of a query."""
    rows: list[dict[str, object]] = pa.Table.from_batches(store.query(sql)).to_pylist()
    return rows


def children(process: int) -> list[int]:
    """Returns the ids of a process's children."""
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for file in found for child in file.read_text().split()]


def test_query_cannot_read_the_servers_passwords(store: Store) -> None:
    """A reader reads /etc/shadow by the function `file`, and the kernel forbids it."""
    with pytest.raises(QueryError, match="Permission denied"):
        list(store.query("SELECT file('/etc/shadow')"))


def test_query_cannot_read_a_file_by_a_function_without_a_call(store: Store) -> None:
    """A reader hides the name of the function in `APPLY`, and the kernel forbids what it does."""
    with pytest.raises(QueryError, match="Permission denied"):
        list(store.query("SELECT * APPLY(file) FROM (SELECT '/etc/shadow' AS path)"))


def test_query_cannot_read_the_key_beside_the_store(store: Store, tmp_path: Path) -> None:
    """A reader reads the server's private key in the data directory, outside the store's folder."""
    with pytest.raises(QueryError, match="Permission denied"):
        list(store.query(f"SELECT arrayMap(file, ['{tmp_path}/key.pem'])"))


def test_query_cannot_read_the_servers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader looks for a password among the variables, by the paths of processes."""
    monkeypatch.setenv("INFRASIGHT_SERVER_STORE_PASSWORD", "secret")
    store = ServerSettings(data=tmp_path, database="test").open_store()
    try:
        for process in ("self", str(os.getpid())):
            with pytest.raises(QueryError, match="Permission denied"):
                list(store.query(f"SELECT file('/proc/{process}/environ')"))
    finally:
        store.close()


def test_query_cannot_read_the_servers_memory_map(store: Store) -> None:
    """A reader looks where the server's code and data lie in memory, which the kernel forbids."""
    with pytest.raises(QueryError, match="Permission denied"):
        list(store.query("SELECT file('/proc/self/maps')"))


def test_query_cannot_write_a_file(store: Store, tmp_path: Path) -> None:
    """A reader writes the answer of a query to a file of the server's machine."""
    target = tmp_path / "written"
    with pytest.raises(InfraSightError):
        list(store.query(f"SELECT 1 INTO OUTFILE '{target}' FORMAT CSV"))
    assert not target.exists()


def test_statement_with_all_rights_cannot_write_outside_the_store(
    store: Store, tmp_path: Path
) -> None:
    """A statement that even the read-only mode does not stop writes no file beside the store."""
    target = tmp_path / "written"
    with pytest.raises(StoreError, match="Permission denied"):
        store.command(f"INSERT INTO FUNCTION file('{target}', 'CSV') SELECT 1")
    assert not target.exists()


def test_statement_with_all_rights_cannot_connect(store: Store) -> None:
    """A statement sends rows to another machine by `url`, and no connection arrives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        with pytest.raises(StoreError):
            store.command(
                f"INSERT INTO FUNCTION url('http://127.0.0.1:{port}/', 'CSV', 'a UInt8') SELECT 1 "
                "SETTINGS http_max_tries = 1, http_connection_timeout = 1, http_send_timeout = 1, "
                "http_receive_timeout = 1"
            )
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_statement_with_all_rights_cannot_start_a_program(store: Store, tmp_path: Path) -> None:
    """A statement starts a script in the folder of user scripts, which has no effect."""
    script = tmp_path / "store" / "user_scripts" / "attack.sh"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/store/executed\n")
    script.chmod(0o755)
    with pytest.raises(StoreError):
        store.command("SELECT * FROM executable('attack.sh', 'LineAsString', 'line String')")
    assert not (tmp_path / "store" / "executed").exists()


@pytest.mark.parametrize("name", ["late", "totals"], ids=["streamed", "whole"])
def test_query_that_fails_late_does_not_poison_the_next_reader(store: Store, name: str) -> None:
    """A reader fails in the middle of answers; the next reader gets an own, complete answer.

    A statement with the word `totals` is not streamed; its answer stays in chDB's connection.
    """
    failing = f"SELECT number, throwIf(number = 900000) AS {name} FROM numbers(1000000)"
    wrong: list[object] = []

    def read() -> None:
        for number in range(5):
            with pytest.raises(QueryError):
                list(store.query(failing))
            rows = answer(store, f"SELECT {number} AS n")
            if rows != [{"n": number}]:
                wrong.append(rows)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(SECONDS)
    assert not reader.is_alive()
    assert not wrong


def test_answer_that_is_not_read_does_not_poison_the_next_reader(store: Store) -> None:
    """A reader leaves in the middle of answers; the next reader gets an own, complete answer."""
    for number in range(5):
        pieces = store.query("SELECT number FROM numbers(10000000)")
        assert next(pieces).num_rows == 0
        assert next(pieces).num_rows > 0
        pieces.close()  # type: ignore[attr-defined]
        assert answer(store, f"SELECT {number} AS n") == [{"n": number}]


def test_readers_with_address_columns_do_not_block_each_other(store: Store) -> None:
    """Readers use every connection at the same time, and each needs one more for its columns."""
    barrier = threading.Barrier(8)

    def read() -> None:
        for _ in range(5):
            barrier.wait()
            assert len(answer(store, "SELECT toIPv6('::1') AS a FROM numbers(10)")) == 10

    readers = [threading.Thread(target=read, daemon=True) for _ in range(8)]
    for reader in readers:
        reader.start()
    until(lambda: not any(reader.is_alive() for reader in readers), "they are answered", SECONDS)


def test_query_cannot_lift_its_limits(store: Store) -> None:
    """A reader sets the memory, time and mode of a query in the statement itself."""
    for setting in ("max_memory_usage = 0", "max_execution_time = 0", "readonly = 0"):
        with pytest.raises(QueryError, match="read"):
            list(store.query(f"SELECT 1 SETTINGS {setting}"))
    (limits,) = answer(
        store,
        "SELECT toUInt64(getSetting('max_memory_usage')) AS memory, "
        "toUInt64(getSetting('max_result_bytes')) AS bytes",
    )
    assert limits["memory"]
    assert limits["bytes"]


@pytest.fixture
def small_system(tmp_path: Path) -> Iterator[tuple[System, Process]]:
    """A server in a container with 1.5 GiB of memory."""
    with running_system(tmp_path) as system, children_with_memory(3 << 29):
        yield system, system.start_server()
        system.stop()


def test_queries_that_collect_everything_do_not_stop_the_storing(
    small_system: tuple[System, Process],
) -> None:
    """Readers take all the memory of a container, and batches are stored meanwhile."""
    system, server = small_system
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not stop.is_set():
            try:
                system.query(HUGE)
            except AssertionError as error:
                failures.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        until(lambda: len(failures) >= 3, "queries have failed", SECONDS)
        with AgentClient(system.address) as agent:
            agent.send(hello())
            agent.answer()
            for number in range(5):
                agent.send(batch(f"b{number}", table(1000, first=1000 * number)))
            expected = {f"b{number}": "stored" for number in range(5)}
            assert agent.answers(5) == expected
    finally:
        stop.set()
        for reader in readers:
            reader.join(SECONDS)
    assert server.ready()
    assert all("MEMORY_LIMIT_EXCEEDED" in failure for failure in failures)


def test_query_that_crashes_the_engine_does_not_end_the_server(tmp_path: Path) -> None:
    """A reader crashes ClickHouse; the server goes on and starts it again with all rows."""
    with running_system(tmp_path) as system:
        server = system.start_server()
        with AgentClient(system.address) as agent:
            agent.send(hello())
            agent.answer()
            agent.send(batch("before", table(10)))
            assert agent.answers(1) == {"before": "stored"}
            (engine,) = children(server.pid)
            os.kill(engine, signal.SIGSEGV)
            agent.send(batch("after", table(10, first=10)))
            assert agent.answers(1) == {"after": "stored"}
        assert children(server.pid) != [engine]
        rows = system.query("SELECT count() AS n, uniqExact(sequence) AS u FROM execve_events")
        assert rows == [{"n": 20, "u": 20}]
