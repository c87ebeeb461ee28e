"""Attacks of a reader by queries: what may be read, and how much of the server one reader can hold.

One server with mutual TLS answers through all tests. The attacker has a reader's certificate; so
has another reader, who must get answers all the time.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from infrasight.v1.stream_pb2 import QueryRequest, WatchRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.net import ipc
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import TlsFiles
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import (
    BIN,
    Process,
    System,
    loopback_address,
    running_system,
    until,
)

ANSWER_SECONDS = 45  # a deadline, much longer than an answer takes
HELD_SECONDS = 300  # the attacker's deadline: its calls must not end before those of others fail
LONG_QUERY = "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)"
LARGE_ANSWER = "SELECT number, toString(number) FROM numbers(20000000)"
HELD_CALLS = 8
MOST_CPU_SECONDS = 2  # of the server for a statement; a quadratic search takes 4 and more
SECRET = "root:"


class Reader:
    """A peer with a reader's certificate.

    Args:
        address: The server's address.
        files: The certificate.
    """

    def __init__(self, address: str, files: TlsFiles) -> None:
        self.address = address
        self.files = files
        self.stub = EventServiceStub(sync_channel(Peer(address, files)))

    def call(self, sql: str, seconds: float = ANSWER_SECONDS) -> Any:
        """Starts a query and reads nothing."""
        return self.stub.Query(QueryRequest(sql=sql), timeout=seconds)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The answer of a query."""
        return [row for piece in self.call(sql) for row in ipc.from_bytes(piece.arrow).to_pylist()]

    def rejection(self, sql: str) -> str:
        """Why a query is rejected."""
        with pytest.raises(grpc.RpcError) as raised:
            self.rows(sql)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, raised.value
        return str(raised.value.details())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """The CA of server and readers."""
    return CertificateAuthority(tmp_path_factory.mktemp("ca"), "test")


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, authority: CertificateAuthority
) -> Iterator[System]:
    """A running server."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        running.address = loopback_address()
        yield running


@pytest.fixture(scope="module")
def server(system: System, authority: CertificateAuthority) -> Process:
    """The server's process."""
    files = authority.issue("server", uris=("server",))
    return system.start_server(*_options(files))


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A ClickHouse server, whose data another server than that of the other tests stores."""
    running = ClickHouseServer(tmp_path_factory.mktemp("clickhouse")).start()
    yield running
    running.kill()


@pytest.fixture
def attacker(server: Process, system: System, authority: CertificateAuthority) -> Reader:
    """The reader who attacks."""
    return Reader(system.address, authority.issue("attacker", uris=("reader/attacker",)))


@pytest.fixture
def reader(server: Process, system: System, authority: CertificateAuthority) -> Reader:
    """Another reader, who must not be affected."""
    return Reader(system.address, authority.issue("reader", uris=("reader/other",)))


def _options(files: TlsFiles) -> list[str]:
    return [
        *("--tls-certificate", str(files.certificate)),
        *("--tls-key", str(files.key)),
        *("--tls-ca", str(files.ca)),
    ]


def run_query(attacker: Reader, sql: str) -> subprocess.CompletedProcess[str]:
    """Runs `infrasight query` as a process."""
    command = [str(BIN / "infrasight"), "query", "--server", attacker.address, "--format", "csv"]
    return subprocess.run(
        [*command, *_options(attacker.files), "--", sql],
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
        check=False,
    )


def test_function_applied_to_columns_cannot_read_a_file(attacker: Reader) -> None:
    """`APPLY(file)` names the function without a call; it is rejected, and nothing is read."""
    result = run_query(attacker, "SELECT * APPLY(file) FROM (SELECT '/etc/passwd' AS path)")
    assert result.returncode == 1
    assert "file is also the name of a function" in result.stderr
    assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "WITH file AS f SELECT arrayMap(f, ['/etc/passwd'])",
        "SELECT file AS f, arrayMap(f, ['/etc/passwd'])",
        "SELECT arrayMap(`fi\\x6ce`, ['/etc/passwd'])",
        "SELECT COLUMNS('path') APPLY file FROM (SELECT '/etc/passwd' AS path)",
        "SELECT t.* EXCEPT b APPLY(file) FROM (SELECT '/etc/passwd' AS path, 1 AS b) AS t",
        "SELECT mapApply(file, map('a', '/etc/passwd'))",
    ],
)
def test_function_passed_to_a_function_cannot_read_a_file(attacker: Reader, sql: str) -> None:
    """ClickHouse takes the name of a function as a lambda; each way to pass `file` is rejected."""
    assert "file is also the name of a function" in attacker.rejection(sql)


@pytest.mark.parametrize(
    "sql", ["SELECT * APPLY(file) FROM (SELECT '{}' AS path)", "SELECT arrayMap(file, ['{}'])"]
)
def test_function_cannot_read_a_file_of_a_clickhouse_server(
    clickhouse: ClickHouseServer, tmp_path: Path, sql: str
) -> None:
    """A ClickHouse server is not confined; a name of `file` without a call is rejected as well."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with running_system(tmp_path, clickhouse.url) as system:
        system.start_server()
        with pytest.raises(AssertionError, match="file is also the name of a function"):
            system.query(sql.format(secret))


def test_states_of_the_server_cannot_be_read(attacker: Reader) -> None:
    """Settings, host name, ports and identifiers of the server are no rows of InfraSight."""
    for call in ("getServerSetting('x')", "hostName()", "serverUUID()", "tcpPort()"):
        assert "is not available to queries" in attacker.rejection(f"SELECT {call}")


def test_statements_of_others_cannot_be_read(attacker: Reader) -> None:
    """`system` tells what others ask and which users exist; few of its tables are readable."""
    for table in ("processes", "query_log", "users", "settings", "stack_trace", "disks"):
        sql = f"SELECT * FROM system.{table}"
        assert f"the table system.{table} is not available" in attacker.rejection(sql)
    assert "not available" in attacker.rejection("SELECT 1 IN system.users")
    assert "SHOW PROCESSLIST is not available" in attacker.rejection("SHOW PROCESSLIST")


def test_system_tables_cannot_be_read_through_merge(attacker: Reader) -> None:
    """`merge` reads the tables whose names match; it is limited to the database of InfraSight."""
    for database in ("'system'", "system", "REGEXP('sys.*')"):
        sql = f"SELECT * FROM merge({database}, 'processes')"
        assert "merge() is available to queries for the database" in attacker.rejection(sql)


def test_other_databases_cannot_be_read(attacker: Reader) -> None:
    """A database beside that of InfraSight is rejected, also where an alias has its name."""
    for sql in ("SELECT * FROM default.x", "SELECT 1 AS `default`, (SELECT 1 FROM default.x)"):
        assert "the database default is not available" in attacker.rejection(sql)


def test_limits_cannot_be_raised(attacker: Reader) -> None:
    """`SETTINGS` is rejected wherever a statement can have it."""
    for sql in (
        "SELECT 1 SETTINGS max_memory_usage = 0",
        "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)",
        "WITH t AS (SELECT 1 SETTINGS max_threads = 64) SELECT * FROM t",
    ):
        assert "remove SETTINGS" in attacker.rejection(sql)


def test_queries_cannot_sleep(attacker: Reader) -> None:
    """A query that only waits would hold a slot without work."""
    assert "not available" in attacker.rejection("SELECT sleepEachRow(3) FROM numbers(20)")
    assert "not available" in attacker.rejection("SELECT arrayMap(sleepEachRow, [3])")


def test_queries_cannot_write(attacker: Reader, tmp_path: Path) -> None:
    """Statements and clauses that write are rejected, and no file appears."""
    target = tmp_path / "written"
    for sql in (
        f"INSERT INTO FUNCTION file('{target}', 'CSV', 'a UInt8') SELECT 1",
        f"SELECT 1 INTO OUTFILE '{target}'",
        "INSERT INTO execve_events (pid) VALUES (1)",
        "WITH 1 AS x INSERT INTO execve_events (pid) SELECT x",
        "SELECT 1 PARALLEL WITH SELECT 2",
        "DROP TABLE execve_events",
        "EXPLAIN AST DROP TABLE execve_events",
    ):
        attacker.rejection(sql)
    assert not target.exists()
    assert attacker.rows("SELECT count() AS rows FROM execve_events") == [{"rows": 0}]


def test_long_name_does_not_freeze_the_server(
    attacker: Reader, reader: Reader, server: Process
) -> None:
    """60,000 letters were searched in quadratic time; now others are answered meanwhile."""
    before = _cpu_seconds(server)
    call = attacker.call("SELECT " + "a" * 60_000)
    assert reader.rows("SELECT 1 AS one") == [{"one": 1}]
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(str(raised.value.details())) <= 1000
    assert _cpu_seconds(server) - before < MOST_CPU_SECONDS


def test_nested_between_does_not_exhaust_memory(attacker: Reader, server: Process) -> None:
    """Each BETWEEN doubles what ClickHouse's parser makes; many nested ones are rejected before."""
    before = _peak_memory(server)
    for nested in (22, 40):
        assert "too many BETWEEN" in attacker.rejection("SELECT 1" + " BETWEEN 1 AND 2" * nested)
    assert _peak_memory(server) - before < 200 << 20


def test_large_statement_is_rejected(attacker: Reader) -> None:
    """10 MB, and 100 KB, are rejected by their size, before they are parsed."""
    assert "more than 262144" in attacker.rejection("SELECT '" + "a" * 10_000_000 + "'")
    assert "at most 65,536 are allowed" in attacker.rejection("SELECT '" + "a" * 100_000 + "'")


def test_deep_nesting_is_rejected(attacker: Reader) -> None:
    """150 levels of brackets are rejected, and thousands end no parser."""
    assert "nested too deeply" in attacker.rejection("SELECT " + "[" * 150 + "1" + "]" * 150)
    for opening, closing in ("()", "[]", ("f(", ")"), ("(SELECT ", ")")):
        assert attacker.rejection("SELECT " + opening * 8000 + "1" + closing * 8000)


def test_answer_with_an_unusual_name_is_an_error_of_the_query(attacker: Reader) -> None:
    """A column's name that is not UTF-8 made the call fail as an error of the server."""
    assert "rename its columns" in attacker.rejection("SELECT '\\xff'")


def test_unread_answers_do_not_delay_other_readers(
    attacker: Reader, reader: Reader, server: Process
) -> None:
    """One reader who reads nothing holds only its own slots; another is answered at once."""
    calls = [attacker.call(LARGE_ANSWER, HELD_SECONDS) for _ in range(HELD_CALLS)]
    until(lambda: server.metric("infrasight_server_queries_running") >= 2, "slots are held")
    try:
        for _ in range(3):
            assert reader.rows("SELECT 1 AS one") == [{"one": 1}]
    finally:
        for call in calls:
            call.cancel()


def test_queries_of_a_reader_who_leaves_end(
    attacker: Reader, reader: Reader, server: Process
) -> None:
    """Queries that would run for hours end in the store when their client has gone."""
    calls = [attacker.call(LONG_QUERY, HELD_SECONDS) for _ in range(HELD_CALLS)]
    until(lambda: server.metric("infrasight_server_queries_running") >= 2, "queries run")
    for call in calls:
        call.cancel()
    until(lambda: server.metric("infrasight_server_queries_running") == 0, "they end", 20)
    assert attacker.rows("SELECT 1 AS one") == [{"one": 1}]


def test_waiting_queries_are_bounded(attacker: Reader, reader: Reader, server: Process) -> None:
    """Of a hundred queries of one reader most are rejected at once; another is answered."""
    calls = [attacker.call(LONG_QUERY, HELD_SECONDS) for _ in range(100)]
    until(
        lambda: server.metric('infrasight_server_queries_total{outcome="busy"}') >= 50,
        "queries are rejected",
    )
    assert reader.rows("SELECT 1 AS one") == [{"one": 1}]
    for call in calls:
        call.cancel()
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 50


def test_watchers_are_bounded(attacker: Reader, reader: Reader) -> None:
    """A reader who watches again and again is rejected; another can watch."""
    calls = []
    for _ in range(8):
        call: Any = attacker.stub.Watch(WatchRequest(), timeout=ANSWER_SECONDS)
        call.initial_metadata()
        calls.append(call)
    with pytest.raises(grpc.RpcError, match="has 8 watchers already") as raised:
        next(attacker.stub.Watch(WatchRequest(), timeout=ANSWER_SECONDS))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    watching: Any = reader.stub.Watch(WatchRequest(), timeout=ANSWER_SECONDS)
    watching.initial_metadata()
    for call in (*calls, watching):
        call.cancel()


def test_unknown_probes_are_not_repeated_at_length(attacker: Reader) -> None:
    """A request with 10,000 unknown probes gets a short answer."""
    probes = [f"unknown-{number}" for number in range(10_000)]
    with pytest.raises(grpc.RpcError) as raised:
        next(attacker.stub.Watch(WatchRequest(probes=probes), timeout=ANSWER_SECONDS))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(str(raised.value.details())) < 1000


def _peak_memory(process: Process) -> int:
    """The most memory that a process has used so far, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def _cpu_seconds(process: Process) -> float:
    """The CPU time that a process has used so far, which no other process makes longer."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
