"""The reading client against a real server on a socket."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pyarrow as pa
import pytest
from infrasight_core.errors import ConfigError, QueryError, TransportError, UnknownProbeError
from infrasight_core.net.channel import Peer
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


def ask(address: str, tls: TlsFiles | None = None) -> list[pa.Table]:
    """All pieces of an answer."""
    with ServerClient(Peer(address, tls)) as client:
        return list(client.query("SELECT 1"))


def test_an_answer_comes_in_pieces(server: EventServer) -> None:
    """Pieces arrive as they were sent, an empty one with its columns too."""
    server.answer = lambda sql: iter((TABLE.slice(0, 0), TABLE, TABLE.slice(2)))
    pieces = ask(server.address)
    assert [p.num_rows for p in pieces] == [0, 3, 1]
    assert pieces[0].column_names == ["n"]
    assert server.asked == ["SELECT 1"]


def test_a_refused_query_says_why_in_one_line(server: EventServer) -> None:
    """The store's words become a QueryError without line breaks."""

    def refuse(sql: str) -> Iterator[pa.Table]:
        yield TABLE
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "no such\n table")

    server.answer = refuse
    with pytest.raises(QueryError, match=r"^no such table$"):
        ask(server.address)


def test_a_server_that_cannot_answer_now(server: EventServer) -> None:
    """A server that is there but whose store is away is not called unreachable."""

    def refuse(sql: str) -> Iterator[pa.Table]:
        raise RefusedError(grpc.StatusCode.UNAVAILABLE, "the store does not answer")

    server.answer = refuse
    with pytest.raises(TransportError, match="cannot answer now: the store does not answer"):
        ask(server.address)


def test_a_server_that_is_not_there(server: EventServer) -> None:
    """A refused connection says how to start a server or name another."""
    address = server.address
    server.stop()
    with pytest.raises(
        TransportError,
        match=f"{address} is not reachable: start it with `infrasight-server`, or .* --server",
    ):
        ask(address)
    with (
        pytest.raises(TransportError, match="is not reachable"),
        ServerClient(Peer(address)) as client,
    ):
        next(
            client.watch(
                on_unavailable=lambda error, seconds: pytest.fail("never there, so not away")
            )
        )


def test_another_kind_of_server() -> None:
    """A gRPC server without our service is said to be none of ours."""
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(TransportError, match="is not an InfraSight server, or of another version"):
        ask(f"127.0.0.1:{port}")
    other.stop(0).wait()


def test_mutual_tls(tmp_path: Path) -> None:
    """With certificates of one CA it works; each way in which they do not fit has its own words."""
    ca, strange = (
        CertificateAuthority(tmp_path / "a", "a"),
        CertificateAuthority(tmp_path / "b", "b"),
    )
    ours, theirs = ca.issue("reader"), strange.issue("reader")
    wrong_ca = TlsFiles(ours.certificate, ours.key, theirs.ca)
    wrong_certificate = TlsFiles(theirs.certificate, theirs.key, ours.ca)
    with EventServer(ca.issue("server"), "0.0.0.0") as server:
        port = server.address.split(":")[1]
        server.answer = lambda sql: iter((TABLE,))
        assert ask(f"localhost:{port}", ours)[0].equals(TABLE)
        for address, tls, said in (
            (f"localhost:{port}", wrong_ca, "a certificate that the given CA did not sign"),
            (f"127.0.0.2:{port}", ours, "has a certificate for another name"),
            (
                f"localhost:{port}",
                wrong_certificate,
                "closed the connection: .* requires TLS, or a certificate that its CA signed|rejected the TLS handshake",
            ),
            (f"localhost:{port}", None, "closed the connection: .* requires TLS"),
        ):
            with pytest.raises(TransportError, match=said):
                ask(address, tls)


def test_tls_to_a_plaintext_server(server: EventServer, tmp_path: Path) -> None:
    """A server without TLS is named as such."""
    with pytest.raises(TransportError, match="does not use TLS"):
        ask(server.address, CertificateAuthority(tmp_path, "a").issue("reader"))


def test_plaintext_to_another_machine_must_be_asked_for() -> None:
    """No connection is even tried."""
    with pytest.raises(ConfigError, match="allow plaintext explicitly"):
        ServerClient(Peer("192.0.2.1:1"))


def test_watching(server: EventServer) -> None:
    """Events come with their probe and with what was skipped."""
    server.events.put(("execve", TABLE, 0))
    server.events.put(("execve", TABLE.slice(1), 7))
    with ServerClient(Peer(server.address)) as client:
        watch = client.watch(["execve"])
        assert [(p, t.num_rows, s) for p, t, s in (next(watch), next(watch))] == [
            ("execve", 3, 0),
            ("execve", 2, 7),
        ]
    assert server.asked == [["execve"]]


def test_watching_an_unknown_probe(server: EventServer) -> None:
    """The server's words, and no second attempt."""
    with (
        pytest.raises(UnknownProbeError, match="this server knows: execve"),
        ServerClient(Peer(server.address)) as client,
    ):
        next(
            client.watch(
                ["unknown"], on_unavailable=lambda error, seconds: pytest.fail("it is there")
            )
        )


def test_watching_goes_on_when_the_server_comes_back(server: EventServer) -> None:
    """A server that stops is reported, waited for, and watched again."""
    said: list[str] = []

    def away(error: TransportError, seconds: float) -> None:
        said.append(str(error))
        if len(said) == 2:
            server.start()
            server.events.put(("execve", TABLE, 0))

    server.events.put(("execve", TABLE, 0))
    with ServerClient(Peer(server.address)) as client:
        watch = client.watch(on_unavailable=away)
        next(watch)
        server.stop()
        assert next(watch)[1].equals(TABLE)
    assert len(said) >= 2
    assert "is not reachable" in said[1]


def test_watching_ends_without_a_listener_for_it(server: EventServer) -> None:
    """Who does not wait for the server gets an error when it goes."""
    server.events.put(None)
    with (
        pytest.raises(TransportError, match="ended the stream"),
        ServerClient(Peer(server.address)) as client,
    ):
        next(client.watch())


def test_bytes_that_are_not_arrow(server: EventServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that cannot be read is the server's fault, and said so."""
    monkeypatch.setattr("infrasight_testbed.event_server._bytes", lambda table: b"nonsense")
    server.answer = lambda sql: iter((TABLE,))
    with pytest.raises(TransportError, match="sent a table that this version cannot read"):
        ask(server.address)
