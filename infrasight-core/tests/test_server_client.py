"""The client of a server, against a real gRPC server on a socket."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pyarrow as pa
import pytest
from infrasight_core.errors import ConfigError, QueryError, TransportError, UnknownProbeError
from infrasight_core.net.peer import Peer
from infrasight_core.net.server_client import ServerClient
from infrasight_core.net.tls import TlsFiles
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.event_server import EventServer, RefusedError

TABLE = pa.table({"n": pa.array([1, 2, 3])})


@pytest.fixture
def server() -> Iterator[EventServer]:
    """A plaintext server."""
    with EventServer() as running:
        yield running


def query(address: str, tls: TlsFiles | None = None) -> list[pa.Table]:
    """All pieces of a query's result."""
    with ServerClient(Peer(address, tls)) as client:
        return list(client.query("SELECT 1"))


def fail_if_unavailable(error: TransportError, seconds: float) -> None:
    """Fails a test in which the client must not wait for the server."""
    pytest.fail(f"the client waits: {error}")


def test_query_yields_the_result_in_pieces(server: EventServer) -> None:
    """Pieces arrive as the server sent them, also an empty one with its columns."""
    server.answer = lambda sql: iter((TABLE.slice(0, 0), TABLE, TABLE.slice(2)))
    pieces = query(server.address)
    assert [piece.num_rows for piece in pieces] == [0, 3, 1]
    assert pieces[0].column_names == ["n"]
    assert server.asked == ["SELECT 1"]


def test_rejected_query_has_the_reason_in_one_line(server: EventServer) -> None:
    """The store's message becomes a QueryError without line breaks."""

    def reject(sql: str) -> Iterator[pa.Table]:
        yield TABLE
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "no such\n table")

    server.answer = reject
    with pytest.raises(QueryError, match=r"^no such table$"):
        query(server.address)


def test_server_without_a_store_cannot_answer_now(server: EventServer) -> None:
    """A server that answers, but whose store is unavailable, is not reported as unreachable."""

    def reject(sql: str) -> Iterator[pa.Table]:
        raise RefusedError(grpc.StatusCode.UNAVAILABLE, "the store does not answer")

    server.answer = reject
    with pytest.raises(TransportError, match="cannot answer now: the store does not answer"):
        query(server.address)


def test_unreachable_server_is_named_with_the_remedy(server: EventServer) -> None:
    """A refused connection is raised at once, also by `watch`."""
    address = server.address
    server.stop()
    with pytest.raises(
        TransportError,
        match=f"{address} is not reachable: start it with `infrasight-server`, or .* --server",
    ):
        query(address)
    with (
        pytest.raises(TransportError, match="is not reachable"),
        ServerClient(Peer(address)) as client,
    ):
        next(client.watch(on_unavailable=fail_if_unavailable))


def test_other_grpc_server_is_recognized() -> None:
    """A gRPC server without InfraSight's service is named as such."""
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(TransportError, match="is not an InfraSight server, or of another version"):
        query(f"127.0.0.1:{port}")
    other.stop(0).wait()


def test_mutual_tls_names_each_mismatch(tmp_path: Path) -> None:
    """Certificates of one CA work; every mismatch has its own message."""
    authority = CertificateAuthority(tmp_path / "a", "a")
    other_authority = CertificateAuthority(tmp_path / "b", "b")
    files = authority.issue("reader")
    other_files = other_authority.issue("reader")
    with EventServer(authority.issue("server"), "0.0.0.0") as server:
        port = server.address.split(":")[1]
        server.answer = lambda sql: iter((TABLE,))
        assert query(f"localhost:{port}", files)[0].equals(TABLE)
        mismatches = [
            (
                f"localhost:{port}",
                TlsFiles(files.certificate, files.key, other_files.ca),
                "has a certificate that the given CA did not sign",
            ),
            (f"127.0.0.2:{port}", files, "has a certificate for another name"),
            (
                f"localhost:{port}",
                TlsFiles(other_files.certificate, other_files.key, files.ca),
                "closed the connection: .* requires TLS, or a certificate that its CA signed"
                "|rejected the TLS handshake",
            ),
            (f"localhost:{port}", None, "closed the connection: .* requires TLS"),
        ]
        for address, tls, message in mismatches:
            with pytest.raises(TransportError, match=message):
                query(address, tls)


def test_tls_to_a_plaintext_server_is_recognized(server: EventServer, tmp_path: Path) -> None:
    """A server without TLS is named as such."""
    with pytest.raises(TransportError, match="does not use TLS"):
        query(server.address, CertificateAuthority(tmp_path, "a").issue("reader"))


def test_client_does_not_connect_over_the_network_without_tls() -> None:
    """Plaintext must be allowed explicitly."""
    with pytest.raises(ConfigError, match="allow plaintext explicitly"):
        ServerClient(Peer("192.0.2.1:1"))


def test_watch_yields_events_and_the_number_of_dropped_rows(server: EventServer) -> None:
    """Events come with their probe and with how many rows were dropped before them."""
    server.events.put(("execve", TABLE, 0))
    server.events.put(("execve", TABLE.slice(1), 7))
    with ServerClient(Peer(server.address)) as client:
        watch = client.watch(["execve"])
        received = [next(watch), next(watch)]
    assert [(probe, table.num_rows, dropped) for probe, table, dropped in received] == [
        ("execve", 3, 0),
        ("execve", 2, 7),
    ]
    assert server.asked == [["execve"]]


def test_watch_of_an_unknown_probe_is_not_retried(server: EventServer) -> None:
    """The server's message is raised at once."""
    with (
        pytest.raises(UnknownProbeError, match="this server knows: execve"),
        ServerClient(Peer(server.address)) as client,
    ):
        next(client.watch(["unknown"], on_unavailable=fail_if_unavailable))


def test_watch_continues_when_the_server_is_available_again(server: EventServer) -> None:
    """A server that stops is reported, and watched again after it has started."""
    reasons: list[str] = []

    def restart(error: TransportError, seconds: float) -> None:
        reasons.append(str(error))
        if len(reasons) == 2:
            server.start()
            server.events.put(("execve", TABLE, 0))

    server.events.put(("execve", TABLE, 0))
    with ServerClient(Peer(server.address)) as client:
        watch = client.watch(on_unavailable=restart)
        next(watch)
        server.stop()
        assert next(watch)[1].equals(TABLE)
    assert len(reasons) >= 2
    assert "is not reachable" in reasons[1]


def test_watch_raises_without_a_handler_when_the_server_ends_it(server: EventServer) -> None:
    """A caller that does not wait for the server gets an error."""
    server.events.put(None)
    with (
        pytest.raises(TransportError, match="ended the stream"),
        ServerClient(Peer(server.address)) as client,
    ):
        next(client.watch())


def test_unreadable_result_is_an_error_of_the_server(
    server: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are not Arrow become a TransportError."""
    monkeypatch.setattr("infrasight_testbed.event_server._bytes", lambda table: b"nonsense")
    server.answer = lambda sql: iter((TABLE,))
    with pytest.raises(TransportError, match="sent a table that this version cannot read"):
        query(server.address)


def test_answer_whose_columns_change_is_not_used(server: EventServer) -> None:
    """A later piece with other columns than the first ends the answer with an error."""
    server.answer = lambda sql: iter((TABLE, pa.table({"m": pa.array(["x"])})))
    with pytest.raises(TransportError, match="changed the columns within an answer"):
        query(server.address)


def test_answer_without_a_piece_is_an_error(server: EventServer) -> None:
    """Not even an empty table came: the server does not follow the protocol."""
    with pytest.raises(TransportError, match="ended its answer before it began"):
        query(server.address)
