"""From the kernel to the table, through the real commands: each event is stored exactly once."""

import os
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from infrasight.v1.stream_pb2 import Batch
from infrasight_core.net import ipc
from infrasight_testbed.certificates import CertificateAuthority, tls_options
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import System, execute, loopback_address, running_system, until


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A real ClickHouse server."""
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse")).start()
    yield server
    server.kill()


@pytest.fixture(params=["embedded", "clickhouse"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A system on each kind of store."""
    store = "embedded"
    if request.param == "clickhouse":
        store = request.getfixturevalue("clickhouse").url
    with running_system(tmp_path, store, f"test_{uuid.uuid4().hex}") as running:
        yield running


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[System]:
    """A system on the embedded store."""
    with running_system(tmp_path) as running:
        yield running


def numbers(system: System, marker: str) -> list[int]:
    """The running numbers of the marked calls in the table."""
    return sorted(int(row["number"]) for row in system.rows(marker, "argv[3] AS number"))


def spooled(system: System, marker: str) -> int:
    """How many of the marked calls are in the agent's spool."""
    with closing(sqlite3.connect(system.spool_folder / "batches.sqlite")) as spool:
        contents = [content for (content,) in spool.execute("SELECT content FROM batches")]
    batches = [Batch.FromString(content) for content in contents]
    calls = [ipc.from_frame(batch.arrow)["argv"].to_pylist() for batch in batches if batch.arrow]
    return sum(argv[1:2] == [marker.encode()] for each in calls for argv in each)


def await_spooled(system: System, marker: str, count: int) -> None:
    """Waits until so many of the marked calls are in the agent's spool."""
    until(lambda: spooled(system, marker) >= count, "the calls are in the spool")


def test_killed_agent_leaves_its_events_to_the_next_one(embedded: System) -> None:
    """Without a server the agent is killed, again and again; the next one sends what it had read.

    Each row is stored once.
    """
    server = embedded.start_server()
    for life in range(3):
        agent = embedded.start_agent(ready=life == 0)
        server.kill()
        execute("mark-left", 25, first=25 * life)
        await_spooled(embedded, "mark-left", 25 * (life + 1))
        agent.kill()
    embedded.start_server()
    agent = embedded.start_agent()
    until(lambda: len(numbers(embedded, "mark-left")) >= 75, "every event is stored")
    assert agent.stop() == 0
    assert numbers(embedded, "mark-left") == list(range(75))


def test_store_on_this_machine_is_not_recorded_at_its_own_work(embedded: System) -> None:
    """What the store opens for an insert is no event, or it would be the next insert.

    What another process does to the store's files is.
    """
    embedded.start_server()
    agent = embedded.start_agent(every_probe=True)
    execute("mark-own-store", 5)
    until(lambda: len(embedded.rows("mark-own-store")) == 5, "the first insert")
    began = time.time_ns()
    execute("mark-own-store", 5, first=5)
    subprocess.run(["cat", embedded.store_folder / "status"], check=True, stdout=subprocess.PIPE)
    until(lambda: len(embedded.rows("mark-own-store")) == 10, "the second insert")
    assert agent.stop() == 0
    rows = embedded.query(
        "SELECT comm, resolved_path AS path FROM open_events "
        f"WHERE startsWith(path, '{embedded.store_folder}/') "
        f"AND time > fromUnixTimestamp64Nano({began})"
    )
    assert rows == [{"comm": "cat", "path": f"{embedded.store_folder}/status"}]


def test_23_calls_are_stored_as_23_rows(system: System) -> None:
    """23 known calls are exactly those rows in the table, right in every field."""
    system.start_server()
    agent = system.start_agent()
    before = time.time()
    execute("mark-e2e", 23)
    for user in ("root", "nobody"):
        command = ["/bin/false", "mark-e2e-fails", user]
        subprocess.run(command, check=False, user=user)
    assert agent.stop() == 0
    rows = system.rows("mark-e2e")
    assert [row["argv"] for row in rows] == [["/bin/true", "mark-e2e", str(n)] for n in range(23)]
    expected = {
        "node": "node-a",
        "uid": 0,
        "gid": 0,
        "user": "root",
        "comm": "true",
        "ppid": os.getpid(),
        "return_code": 0,
        "error": "",
        "quality": [],
        "filename": "/bin/true",
        "cwd": str(Path.cwd()),
    }
    for row in rows:
        assert {name: row[name] for name in expected} == expected
        assert row["time"] <= row["received_time"]
        assert row["batch_id"]
    exact = system.query(
        "SELECT toUnixTimestamp64Nano(time) AS t, duration_ns FROM execve_events "
        "WHERE argv[2] = 'mark-e2e' ORDER BY t"
    )
    assert before - 1 < int(exact[0]["t"]) / 1e9 < time.time()
    assert [row["user"] for row in system.rows("mark-e2e-fails", "user")] == ["root", "nobody"]


def test_agent_without_server_records_and_delivers_later(embedded: System) -> None:
    """Without a server the agent records and reports why it is not ready; later it delivers all."""
    agent = embedded.start_agent(ready=False)
    execute("mark-late", 30)
    assert not agent.ready()
    until(lambda: "UNAVAILABLE" in agent.get("readyz"), "readyz reports the reason")
    embedded.start_server()
    until(agent.ready, "the agent has found the server")
    assert agent.stop() == 0
    assert numbers(embedded, "mark-late") == list(range(30))


def test_killed_server_loses_and_doubles_nothing(embedded: System) -> None:
    """The server is killed twice while programs execute: every call is in the table, once."""
    server = embedded.start_server()
    agent = embedded.start_agent()
    for part in range(3):
        execute("mark-kill", 100, part * 100)
        if part < 2:
            server.kill()
            execute("mark-gone", 10, part * 10)
            server = embedded.start_server()
    until(
        lambda: agent.ready() and agent.metric("infrasight_outbox_bytes") == 0,
        "everything is acknowledged",
    )
    assert agent.stop() == 0
    assert numbers(embedded, "mark-kill") == list(range(300))
    assert numbers(embedded, "mark-gone") == list(range(20))


def test_stopping_agent_delivers_everything_recorded(embedded: System) -> None:
    """SIGTERM right after the last call: every event is in the table."""
    embedded.start_server()
    agent = embedded.start_agent()
    execute("mark-stop", 50)
    assert agent.stop() == 0
    assert numbers(embedded, "mark-stop") == list(range(50))


def test_full_outbox_counts_what_it_drops(embedded: System) -> None:
    """Without a server a small outbox overflows: stored and dropped events add up to those seen."""
    agent = embedded.start_agent(
        "--spool", "none", ready=False, environment={"INFRASIGHT_AGENT_OUTBOX_MEMORY": "20000"}
    )
    executed = 0
    while agent.metric("infrasight_events_dropped_total") == 0:
        assert executed < 10_000, "the outbox never became full"
        execute("mark-full", 20, executed)
        executed += 20
    server = embedded.start_server()
    until(agent.ready, "the agent has found the server")

    until(lambda: agent.metric("infrasight_outbox_bytes") == 0, "the outbox is empty")
    assert agent.stop() == 0
    (account,) = embedded.query(
        "SELECT sum(seen) AS seen, sum(filtered) AS filtered, sum(outbox_full) AS dropped, "
        "sum(stored) AS stored, sum(abs(difference)) AS difference "
        "FROM accounting WHERE probe = 'execve'"
    )
    assert account["dropped"] > 0
    assert account["stored"] > 0  # not always the marked ones: other processes fill it too
    assert account["difference"] == 0
    assert account["stored"] == account["seen"] - account["filtered"] - account["dropped"]
    metric = 'infrasight_server_events_dropped_total{probe="execve"'
    assert server.metric(metric) == account["dropped"]


def test_mutual_tls_admits_only_agents_of_the_same_ca(embedded: System, tmp_path: Path) -> None:
    """With mutual TLS events and queries pass; an agent of another CA is rejected."""
    ours = CertificateAuthority(tmp_path / "ours", "ours")
    others = CertificateAuthority(tmp_path / "others", "others")

    def options(authority: CertificateAuthority, role: str) -> list[str]:
        files = authority.issue(role.partition("/")[0], uris=(role,))
        return tls_options(files)

    embedded.address = loopback_address()
    embedded.start_server(*options(ours, "server"))
    rejected = embedded.start_agent(*options(others, "agent/node-a"), ready=False)
    until(lambda: "UNAVAILABLE" in rejected.get("readyz"), "the other CA's agent is rejected")
    rejected.stop()
    agent = embedded.start_agent(*options(ours, "agent/node-a"))
    execute("mark-tls", 5)
    assert agent.stop() == 0
    rows = embedded.query(
        "SELECT argv FROM execve_events WHERE argv[2] = 'mark-tls'", *options(ours, "reader/test")
    )
    assert len(rows) == 5


def test_agent_waits_while_its_certificate_is_replaced(embedded: System, tmp_path: Path) -> None:
    """The server restarts while the agent's certificate is half written: all events arrive."""
    authority = CertificateAuthority(tmp_path / "ours", "ours")
    agent_files = authority.issue("agent", uris=("agent/node-a",))
    server_options = tls_options(authority.issue("server", uris=("server",)))
    reader_options = tls_options(authority.issue("reader", uris=("reader/test",)))
    embedded.address = loopback_address()
    server = embedded.start_server(*server_options)
    agent = embedded.start_agent(*tls_options(agent_files))
    whole = agent_files.certificate.read_bytes()
    agent_files.certificate.write_bytes(whole[: len(whole) // 2])
    server.stop()
    execute("mark-half", 5)
    embedded.start_server(*server_options)
    until(
        lambda: "do not belong together" in agent.get("readyz"),
        "the agent reports the mistake in its files",
    )
    agent_files.certificate.write_bytes(whole)
    until(agent.ready, "the agent streams again")
    assert agent.stop() == 0
    sql = "SELECT argv FROM execve_events WHERE argv[2] = 'mark-half'"
    assert len(embedded.query(sql, *reader_options)) == 5
