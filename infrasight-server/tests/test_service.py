"""The server over a real socket: streams, rejections, queries, watching, health."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Account, Batch, Hello, QueryRequest, WatchRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.net import ipc
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import ListenerTls, TlsFiles
from infrasight_core.plugin.schema import EventSchema
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.execve_batches import NODE, SCHEMA, WINDOW, batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.system import until

MakeSettings = Callable[..., ServerSettings]


@pytest.fixture
def server(make_settings: MakeSettings) -> Iterator[Server]:
    """A server with the execve probe, on each store."""
    with running_server(make_settings(max_batch_bytes=1 << 20), plugins()) as running:
        yield running


def query(server: Server, sql: str, tls: TlsFiles | None = None) -> pa.Table:
    """Returns the answer of a query over gRPC."""
    with sync_channel(Peer(server.address, tls)) as channel:
        pieces = [
            ipc.from_bytes(piece.arrow)
            for piece in EventServiceStub(channel).Query(QueryRequest(sql=sql), timeout=60)
        ]
    return pa.concat_tables(pieces)


def get(server: Server, path: str) -> tuple[int, str]:
    """Returns status and text of an HTTP response."""
    try:
        with urllib.request.urlopen(
            f"http://{server.status_address}{path}", timeout=60
        ) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(server: Server, name: str, **labels: str) -> float:
    """Returns the value of a counter, 0 before its first count."""
    prefix = f"{name}{{{','.join(f'{k}={json.dumps(v)}' for k, v in labels.items())}}} "
    for line in get(server, "/metrics")[1].splitlines():
        if line.startswith(prefix):
            return float(line.removeprefix(prefix))
    return 0.0


def test_batches_are_stored_and_acknowledged(server: Server) -> None:
    """Acknowledged rows are in the table, with node and batch id."""
    with AgentClient(server.address) as agent:
        agent.send(hello())
        welcome = agent.answer().welcome
        assert [(p.probe, p.accepted, p.reason) for p in welcome.probes] == [("execve", True, "")]
        assert welcome.max_batch_bytes == 1 << 20
        for number in range(5):
            agent.send(batch(f"b{number}", table(10, first=10 * number)))
        assert agent.answers(5) == {f"b{number}": "stored" for number in range(5)}
        stored = query(
            server,
            "SELECT node, batch_id, count() AS rows, min(sequence) AS first FROM execve_events "
            "GROUP BY 1, 2 ORDER BY 4",
        )
    assert stored.to_pylist() == [
        {"node": NODE.encode(), "batch_id": f"b{n}".encode(), "rows": 10, "first": 10 * n}
        for n in range(5)
    ]


def test_rejected_batches_do_not_end_the_stream(server: Server) -> None:
    """Malformed, unknown, oversized, of another schema: each has a reason; others are stored."""
    unknown_before = metric(
        server, "infrasight_server_batches_rejected_total", probe="unknown", reason="unknown_probe"
    )
    with AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        agent.send(batch("good-1", table(3)))
        agent.send(batch("malformed", table(3), arrow=b"nonsense"))
        agent.send(batch("unknown", table(3), probe="bpf_party"))
        agent.send(batch("oversized", table(3), arrow=b"\xff" * (1 << 20)))
        agent.send(
            batch(
                "newer",
                table(3).append_column("further", [[1, 2, 3]]),
                fingerprint="0123456789abcdef",
            )
        )
        agent.send(batch("rows", table(3), rows=2))
        agent.send(batch("good-2", table(3)))
        assert agent.answers(7) == {
            "good-1": "stored",
            "malformed": "MALFORMED",
            "unknown": "UNKNOWN_PROBE",
            "oversized": "TOO_LARGE",
            "newer": "SCHEMA_MISMATCH",
            "rows": "MALFORMED",
            "good-2": "stored",
        }
    assert query(server, "SELECT count() AS n FROM execve_events")["n"].to_pylist() == [6]
    unknown = metric(
        server, "infrasight_server_batches_rejected_total", probe="unknown", reason="unknown_probe"
    )
    assert unknown == unknown_before + 1


def test_welcome_answers_each_probe_of_a_hello(server: Server) -> None:
    """An unknown probe is named, another schema shows both fingerprints; so does a later hello."""
    with AgentClient(server.address) as agent:
        agent.send(hello("execve", "nowhere"))
        answers = {p.probe: p for p in agent.answer().welcome.probes}
        assert answers["execve"].accepted
        assert not answers["nowhere"].accepted
        assert (
            "this server does not know probe 'nowhere'; it knows: execve"
            in answers["nowhere"].reason
        )
        agent.send(hello(fingerprint="0000000000000000"))
        (answer,) = agent.answer().welcome.probes
        assert not answer.accepted
        assert "'0000000000000000'" in answer.reason
        assert SCHEMA.fingerprint in answer.reason


@pytest.mark.parametrize("first", [batch("b", table(1)), Hello(node="")])
def test_stream_must_begin_with_hello(server: Server, first: Hello) -> None:
    """A batch before hello or a hello without a node ends the stream: FAILED_PRECONDITION."""
    with AgentClient(server.address) as agent:
        agent.send(first)
        with pytest.raises(grpc.RpcError) as raised:
            agent.answer()
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_probe_without_a_table_does_not_affect_the_others(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    """Its DDL differs from its message: welcome, batches and /readyz reject it; another stores."""
    file = tmp_path / "broken_events.sql"
    file.write_text(SCHEMA.ddl_text())
    both = {"broken": EventSchema(ExecveEvent, file), "execve": SCHEMA}
    with (
        running_server(make_settings(), plugins(both)) as server,
        AgentClient(server.address) as agent,
    ):
        agent.send(hello("broken", "execve"))
        answers = {p.probe: p for p in agent.answer().welcome.probes}
        assert "the table is named execve_events, not broken_events" in answers["broken"].reason
        assert answers["execve"].accepted
        agent.send(batch("b1", table(1), probe="broken"))
        agent.send(batch("b2", table(1)))
        assert agent.answers(2) == {"b1": "UNKNOWN_PROBE", "b2": "stored"}
        status, text = get(server, "/readyz")
        assert status == 200
        assert "rejected broken: " in text


def test_dropped_events_of_agents_are_counted(server: Server) -> None:
    """The drops of an account are counted once by probe and reason, however often it is sent."""
    before = metric(
        server, "infrasight_server_events_dropped_total", probe="execve", reason="block_full"
    )
    with AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        for number, (window, dropped) in enumerate(((0, 7), (0, 7), (1, 1), (0, 8)), 1):
            account = Account(
                run="r", window=WINDOW + window, number=number, seen=dropped, block_full=dropped
            )
            agent.send(
                Batch(batch_id=f"r-{WINDOW}-account-{number}", probe="execve", account=account)
            )
        assert set(agent.answers(4).values()) == {"stored"}
    assert (
        metric(
            server, "infrasight_server_events_dropped_total", probe="execve", reason="block_full"
        )
        == before + 9
    )


def test_queries_are_answered_or_rejected(server: Server) -> None:
    """A reading statement is answered, also without rows; others are INVALID_ARGUMENT."""
    assert query(server, "SELECT pid FROM execve_events").schema.names == ["pid"]
    assert query(server, "SELECT number FROM numbers(1000000)").num_rows == 1_000_000
    for sql, message in [
        ("DROP TABLE execve_events", "a query may only read, not DROP"),
        ("SELECT * FROM nowhere", "Unknown table"),
        ("SELECT * FROM file('/etc/passwd')", "file() is not available to queries"),
        ("SELECT throwIf(number = 500000) FROM numbers(1000000)", "throwIf"),
    ]:
        with pytest.raises(grpc.RpcError) as raised:
            query(server, sql)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in str(raised.value)


def test_cancelled_queries_release_their_connections(server: Server) -> None:
    """After more cancelled queries than there are connections, the next one is answered."""
    with grpc.insecure_channel(server.address) as channel:
        for _ in range(12):
            pieces = EventServiceStub(channel).Query(
                QueryRequest(sql="SELECT number FROM numbers(5000000)"), timeout=60
            )
            next(pieces)
            pieces.cancel()
    assert query(server, "SELECT 1 AS a")["a"].to_pylist() == [1]


def test_time_of_a_query_includes_the_transfer(make_settings: MakeSettings) -> None:
    """A client that reads nothing loses its query, so that its slot is free again."""
    settings = make_settings(query_seconds=2, query_slots=1, query_slots_per_peer=1)
    with (
        running_server(settings, plugins()) as server,
        sync_channel(Peer(server.address)) as channel,
    ):
        sql = "SELECT number, toString(number) FROM numbers(3000000)"
        unread = EventServiceStub(channel).Query(QueryRequest(sql=sql), timeout=60)
        first = next(unread)
        assert ipc.from_bytes(first.arrow).num_rows == 0
        until(lambda: "queries_running 0.0" in get(server, "/metrics")[1], "the slot is free")
        assert query(server, "SELECT 1 AS a")["a"].to_pylist() == [1]
        with pytest.raises(grpc.RpcError, match="took longer than 2 s") as raised:
            list(unread)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_watchers_get_all_columns(server: Server) -> None:
    """A watcher gets all stored columns of new batches; for an unknown probe, the known ones."""
    with grpc.insecure_channel(server.address) as channel, AgentClient(server.address) as agent:
        watching = EventServiceStub(channel).Watch(WatchRequest(probes=["execve"]), timeout=60)
        watching.initial_metadata()
        agent.send(hello())
        agent.answer()
        agent.send(batch("b", table(3)))
        seen = next(watching)
        watching.cancel()
        rows = ipc.from_bytes(seen.arrow)
        assert seen.probe == "execve"
        assert rows.schema.names == SCHEMA.stored.names
        assert rows["sequence"].to_pylist() == [0, 1, 2]
        assert set(rows["node"].to_pylist()) == {NODE}
        with pytest.raises(
            grpc.RpcError, match="this server does not know probe nowhere; it knows: execve"
        ):
            next(EventServiceStub(channel).Watch(WatchRequest(probes=["nowhere"]), timeout=60))


def test_watchers_get_each_row_once(server: Server) -> None:
    """A batch is shown when it arrives; one that is sent again, only if it was not stored."""
    with grpc.insecure_channel(server.address) as channel, AgentClient(server.address) as agent:
        watching = EventServiceStub(channel).Watch(WatchRequest(probes=["execve"]), timeout=60)
        watching.initial_metadata()
        agent.send(hello())
        agent.answer()
        agent.send(batch("a", table(3)))
        assert agent.answers(1) == {"a": "stored"}
        agent.send(batch("a", table(3), retry=True))
        agent.send(batch("b", table(2, first=3), retry=True))
        assert agent.answers(2) == {"a": "stored", "b": "stored"}
        sequences: list[int] = []
        while len(sequences) < 5:
            sequences += ipc.from_bytes(next(watching).arrow)["sequence"].to_pylist()
        watching.cancel()
    assert sequences == [0, 1, 2, 3, 4]


def test_status_server_answers(server: Server, make_settings: MakeSettings) -> None:
    """/healthz, /readyz and /metrics describe a healthy server."""
    ready = "ready; probes: execve"
    if make_settings().store != "embedded":
        ready += "; warning: queries run as the ClickHouse user who stores the events; "
        ready += "create a user with SELECT alone and set query_user"
    assert get(server, "/healthz") == (200, "ok\n")
    assert get(server, "/readyz") == (200, f"{ready}\n")
    assert "infrasight_server_pending_bytes 0.0" in get(server, "/metrics")[1]


def test_ttl_of_a_probe_that_is_not_installed_is_a_warning(make_settings: MakeSettings) -> None:
    """`/readyz` names the probe, so that a misspelt name is noticed."""
    settings = make_settings(probe_ttl_days={"execve": 30, "exceve": 7})
    with running_server(settings, plugins()) as server:
        status, answer = get(server, "/readyz")
    assert status == 200
    assert "warning: probe_ttl_days: not installed: exceve" in answer


def test_mutual_tls_accepts_certificates_of_the_ca_only(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    """A client with a certificate of another CA, or without one, cannot connect."""
    ca = CertificateAuthority(tmp_path / "ours", "ours")
    other_ca = CertificateAuthority(tmp_path / "others", "others")
    agent_files = ca.issue("agent", uris=(f"agent/{NODE}",))
    reader_files = ca.issue("reader", uris=("reader/test",))
    own = ca.issue("server", uris=("server",))
    tls = ListenerTls(own.certificate, own.key, own.ca, ca.revoke())
    with running_server(make_settings(tls=tls), plugins()) as server:
        channel = sync_channel(Peer(server.address, agent_files))
        with AgentClient(server.address, channel) as agent:
            agent.send(hello())
            agent.answer()
            agent.send(batch("b", table(2)))
            assert agent.answers(1) == {"b": "stored"}
        assert query(server, "SELECT count() AS n FROM execve_events", reader_files)[
            "n"
        ].to_pylist() == [2]
        other_files = other_ca.issue("reader", uris=("reader/test",))
        impostor = TlsFiles(other_files.certificate, other_files.key, agent_files.ca)
        for files in (impostor, None):
            with pytest.raises(grpc.RpcError) as raised:
                query(server, "SELECT 1", files)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
