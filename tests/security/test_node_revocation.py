"""Attacks of a compromised node whose access was withdrawn while its connections are open."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from infrasight.v1.stream_pb2 import QueryRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.net import call_guard
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import ListenerTls, TlsFiles
from infrasight_server.settings import ServerSettings
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.certificates import CertificateAuthority, bundle
from infrasight_testbed.certified_site import send
from infrasight_testbed.execve_batches import batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server

_LIFETIME = 2.0 / 86_400  # days


class Victim:
    """A server with a revocation list, and its CA, which another may replace.

    Args:
        folder: For data and certificates.
        address: Where it listens.
        tls: Its files.
        authority: Its CA.
    """

    def __init__(self, address: str, tls: ListenerTls, authority: CertificateAuthority) -> None:
        self.address = address
        self.tls = tls
        self.authority = authority

    def agent(self, node: str, days: float = 2) -> Peer:
        """The server, for the agent of a node."""
        files = self.authority.issue(node, uris=(f"agent/{node}",), days=days)
        return Peer(self.address, files)


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Victim]:
    """A server in this process that looks at open calls often."""
    monkeypatch.setattr(call_guard, "RECHECK_SECONDS", 0.1)
    authority = CertificateAuthority(tmp_path / "ca", "ours")
    files = authority.issue("server", uris=("server",))
    trusted = bundle(tmp_path / "trusted.pem", authority)
    tls = ListenerTls(files.certificate, files.key, trusted, authority.revoke())
    settings = ServerSettings(
        listen="127.0.0.1:0", status_listen="127.0.0.1:0", data=tmp_path / "data", tls=tls
    )
    with running_server(settings, plugins()) as server:
        yield Victim(server.address, tls, authority)


def open_stream(peer: Peer, node: str) -> AgentClient:
    """A welcomed agent."""
    agent = AgentClient(peer.address, sync_channel(peer))
    agent.send(hello(node=node))
    agent.answer()
    return agent


def reason(agent: AgentClient) -> str:
    """Why the server ends a stream, which it must."""
    with pytest.raises(grpc.RpcError) as raised:
        agent.answer()
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return str(raised.value.details())


def files_of(peer: Peer) -> TlsFiles:
    """The certificate of a peer."""
    assert peer.tls is not None
    return peer.tls


def test_revoked_certificate_opens_no_stream(victim: Victim) -> None:
    """An agent whose certificate is revoked connects again: UNAUTHENTICATED."""
    peer = victim.agent("node-a")
    assert send(peer, hello(node="node-a")) is grpc.StatusCode.OK
    victim.authority.revoke(files_of(peer))
    assert send(peer, hello(node="node-a")) is grpc.StatusCode.UNAUTHENTICATED


def test_open_stream_of_a_revoked_certificate_ends(victim: Victim) -> None:
    """An agent stays connected when its certificate is revoked: only its stream ends."""
    revoked = victim.agent("node-a")
    trusted = victim.agent("node-b")
    with open_stream(revoked, "node-a") as agent, open_stream(trusted, "node-b") as other:
        victim.authority.revoke(files_of(revoked))
        assert "'CN=node-a' is revoked" in reason(agent)
        other.send(batch("after", table(1)))
        assert other.answers(1) == {"after": "stored"}


def test_open_connection_of_a_revoked_certificate_opens_no_call(victim: Victim) -> None:
    """A reader calls on a connection from before its certificate was revoked: UNAUTHENTICATED."""
    files = victim.authority.issue("reader", uris=("reader/x",))
    with sync_channel(Peer(victim.address, files)) as channel:
        stub = EventServiceStub(channel)
        assert list(stub.Query(QueryRequest(sql="SELECT 1 AS one"), timeout=30))
        victim.authority.revoke(files)
        with pytest.raises(grpc.RpcError, match="is revoked"):
            list(stub.Query(QueryRequest(sql="SELECT 1 AS one"), timeout=30))


def test_damaged_revocation_list_revokes_still(victim: Victim) -> None:
    """The list is cut off while it is written: certificates that were revoked stay rejected."""
    peer = victim.agent("node-a")
    path = victim.authority.revoke(files_of(peer))
    assert send(peer, hello(node="node-a")) is grpc.StatusCode.UNAUTHENTICATED
    path.write_bytes(path.read_bytes()[:100])
    assert send(peer, hello(node="node-a")) is grpc.StatusCode.UNAUTHENTICATED


def test_open_stream_of_an_expired_certificate_ends(victim: Victim) -> None:
    """An agent keeps its stream open beyond its certificate's end: the stream ends."""
    with open_stream(victim.agent("node-a", days=_LIFETIME), "node-a") as agent:
        assert "'CN=node-a' expired at" in reason(agent)


def test_open_stream_of_a_removed_ca_ends(victim: Victim, tmp_path: Path) -> None:
    """An agent stays connected when its CA is removed: only streams of that CA end."""
    successor = CertificateAuthority(tmp_path / "successor", "successor")
    with open_stream(victim.agent("node-a"), "node-a") as agent:
        bundle(victim.tls.ca, victim.authority, successor)
        bundle(victim.tls.crl or Path(), victim.authority, successor, lists=True)
        new = successor.issue("node-b", uris=("agent/node-b",))
        trusting = TlsFiles(new.certificate, new.key, victim.authority.ca)
        with open_stream(Peer(victim.address, trusting), "node-b") as other:
            agent.send(batch("both", table(1)))
            assert agent.answers(1) == {"both": "stored"}
            bundle(victim.tls.ca, successor)
            bundle(victim.tls.crl or Path(), successor, lists=True)
            assert "which is not in tls.ca" in reason(agent)
            other.send(batch("after", table(1)))
            assert other.answers(1) == {"after": "stored"}
