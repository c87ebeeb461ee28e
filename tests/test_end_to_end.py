"""From the kernel to the table, through the commands that people run: nothing lost, nothing doubled."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import System, execute, running_system, until


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A real ClickHouse server."""
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse")).start()
    yield server
    server.kill()


@pytest.fixture(params=["embedded", "clickhouse"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A system on each kind of store."""
    store = (
        request.getfixturevalue("clickhouse").url if request.param == "clickhouse" else "embedded"
    )
    with running_system(tmp_path, store, f"test_{uuid.uuid4().hex}") as running:
        yield running


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[System]:
    """A system on the embedded store."""
    with running_system(tmp_path) as running:
        yield running


def numbers(system: System, marker: str) -> list[int]:
    """The running numbers that are in the table."""
    return sorted(int(row["number"]) for row in system.rows(marker, "argv[3] AS number"))


def test_23_calls_become_23_rows(system: System) -> None:
    """Twenty-three known calls are exactly those rows in the table, field by field, the server's own columns too."""
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
    for row in rows:
        assert (row["node"], row["uid"], row["gid"], row["user"], row["comm"]) == (
            "node-a",
            0,
            0,
            "root",
            "true",
        )
        assert (row["ppid"], row["return_code"], row["error"], row["quality"]) == (
            os.getpid(),
            0,
            "",
            [],
        )
        assert (row["filename"], row["cwd"]) == ("/bin/true", str(Path.cwd()))
        assert row["time"] <= row["received_time"]
        assert row["batch_id"]
    exact = system.query(
        "SELECT toUnixTimestamp64Nano(time) AS t, duration_ns FROM execve_events WHERE argv[2] = 'mark-e2e' ORDER BY t"
    )
    assert before - 1 < int(exact[0]["t"]) / 1e9 < time.time()
    assert [row["user"] for row in system.rows("mark-e2e-fails", "user")] == ["root", "nobody"]


def test_the_server_may_come_late(embedded: System) -> None:
    """An agent without a server records, says that it is not ready and why, and delivers it all once the server is there."""
    agent = embedded.start_agent(ready=False)
    execute("mark-late", 30)
    assert not agent.ready()
    until(lambda: "UNAVAILABLE" in agent.get("readyz"), "readyz tells why")
    embedded.start_server()
    until(agent.ready, "the agent has found the server")
    assert agent.stop() == 0
    assert numbers(embedded, "mark-late") == list(range(30))


def test_a_server_that_is_killed_and_comes_back(embedded: System) -> None:
    """The server is killed twice while programs are executed: every call is in the table, once."""
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


def test_an_agent_that_is_told_to_stop_delivers_what_it_has_recorded(embedded: System) -> None:
    """SIGTERM right after the last call: every event is in the table."""
    embedded.start_server()
    agent = embedded.start_agent()
    execute("mark-stop", 50)
    assert agent.stop() == 0
    assert numbers(embedded, "mark-stop") == list(range(50))


def test_what_finds_no_room_is_counted(embedded: System) -> None:
    """No server and an outbox of 20 KB: what is dropped is counted, and what was kept arrives; together they are all."""
    agent = embedded.start_agent(
        ready=False, environment={"INFRASIGHT_AGENT_OUTBOX_MEMORY": "20000"}
    )
    for part in range(6):
        execute("mark-full", 20, part * 20)
        time.sleep(0.3)
    until(lambda: agent.metric("infrasight_events_dropped_total") > 0, "the outbox is full")
    server = embedded.start_server()
    until(agent.ready, "the agent has found the server")

    until(lambda: agent.metric("infrasight_outbox_bytes") == 0, "what was kept is stored")
    assert agent.stop() == 0
    (account,) = embedded.query(
        "SELECT sum(seen) AS seen, sum(filtered) AS filtered, sum(outbox_full) AS dropped, sum(stored) AS stored, "
        "sum(abs(difference)) AS difference FROM accounting WHERE probe = 'execve'"
    )
    assert account["dropped"] > 0
    assert account["difference"] == 0
    assert account["stored"] == account["seen"] - account["filtered"] - account["dropped"]
    assert (
        server.metric('infrasight_server_events_dropped_total{probe="execve"') == account["dropped"]
    )
    assert 0 < len(numbers(embedded, "mark-full")) < 120


def test_agent_and_server_know_each_other_by_certificates(embedded: System, tmp_path: Path) -> None:
    """Mutual TLS from files on both sides: events and queries pass; an agent of another CA is kept out and says why."""
    ours, others = (CertificateAuthority(tmp_path / name, name) for name in ("ours", "others"))

    def options(authority: CertificateAuthority, subject: str) -> list[str]:
        files = authority.issue(subject)
        return [
            "--tls-certificate",
            str(files.certificate),
            "--tls-key",
            str(files.key),
            "--tls-ca",
            str(files.ca),
        ]

    embedded.start_server(*options(ours, "server"))
    stranger = embedded.start_agent(*options(others, "stranger"), ready=False)
    until(lambda: "UNAVAILABLE" in stranger.get("readyz"), "the stranger is kept out")
    stranger.stop()
    agent = embedded.start_agent(*options(ours, "agent"))
    execute("mark-tls", 5)
    assert agent.stop() == 0
    rows = embedded.query(
        "SELECT argv FROM execve_events WHERE argv[2] = 'mark-tls'", *options(ours, "reader")
    )
    assert len(rows) == 5


def test_a_certificate_that_is_being_replaced_ends_no_agent(
    embedded: System, tmp_path: Path
) -> None:
    """A server that restarts while the agent's certificate is half written: the agent waits, and all events arrive."""
    ours = CertificateAuthority(tmp_path / "ours", "ours")
    (server_files, files), names = (
        (ours.issue("server"), ours.issue("agent")),
        ("certificate", "key", "ca"),
    )
    options = [
        [f"--tls-{name}={getattr(side, name)}" for name in names] for side in (server_files, files)
    ]
    server, agent = embedded.start_server(*options[0]), embedded.start_agent(*options[1])
    whole = files.certificate.read_bytes()
    files.certificate.write_bytes(whole[: len(whole) // 2])
    server.stop()
    execute("mark-half", 5)
    embedded.start_server(*options[0])
    until(
        lambda: "do not belong together" in agent.get("readyz"),
        "the agent says what is wrong with its files",
    )
    files.certificate.write_bytes(whole)
    until(agent.ready, "the agent streams again")
    assert agent.stop() == 0
    rows = embedded.query("SELECT argv FROM execve_events WHERE argv[2] = 'mark-half'", *options[1])
    assert len(rows) == 5
