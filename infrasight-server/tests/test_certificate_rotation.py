"""A CA is replaced while agents stream: two are trusted at a time, and nothing is restarted."""

import itertools
import threading
from pathlib import Path

import pytest
from infrasight_core.errors import TransportError
from infrasight_core.net import call_guard
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.server_client import ServerClient
from infrasight_core.net.tls import ListenerTls, TlsFiles
from infrasight_server.settings import ServerSettings
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.certificates import CertificateAuthority, bundle
from infrasight_testbed.execve_batches import batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server

LIFETIME = 3.0 / 86_400  # days


def replace(files: TlsFiles, new: TlsFiles) -> None:
    """Replaces certificate and key, one after the other."""
    for old_path, new_path in ((files.certificate, new.certificate), (files.key, new.key)):
        new_path.rename(old_path)


def store(agent: AgentClient, batch_id: str) -> None:
    """Sends a batch, which the server must store."""
    agent.send(batch(batch_id, table(1)))
    assert agent.answers(1) == {batch_id: "stored"}


def open_stream(address: str, files: TlsFiles, node: str) -> AgentClient:
    """A welcomed agent."""
    agent = AgentClient(address, sync_channel(Peer(address, files)))
    agent.send(hello(node=node))
    agent.answer()
    return agent


def test_ca_is_replaced_while_agents_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old agent's stream lives until its CA is removed; a new agent connects before that."""
    monkeypatch.setattr(call_guard, "RECHECK_SECONDS", 0.05)
    old = CertificateAuthority(tmp_path / "old", "ours")
    new = CertificateAuthority(tmp_path / "new", "ours")  # the same name, as a renewed CA has
    server_files = old.issue("server", uris=("server",))
    trusted = bundle(tmp_path / "trusted.pem", old)
    tls = ListenerTls(server_files.certificate, server_files.key, trusted)
    settings = ServerSettings(
        listen="127.0.0.1:0", status_listen="127.0.0.1:0", data=tmp_path / "data", tls=tls
    )
    old_files = old.issue("agent", uris=("agent/node-a",))
    with (
        running_server(settings, plugins()) as server,
        open_stream(server.address, old_files, "node-a") as first,
    ):
        store(first, "one-trusted")
        bundle(trusted, old, new)
        store(first, "two-trusted")
        replace(server_files, new.issue("server", uris=("server",)))
        store(first, "new-server-certificate")
        new_files = new.issue("agent", uris=("agent/node-b",))
        with open_stream(server.address, new_files, "node-b") as second:
            store(second, "new-agent")
            store(first, "old-agent")
            bundle(trusted, new)
            assert first.rest() == []
            store(second, "one-trusted-again")


def test_reader_watches_on_with_a_renewed_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the watch of an expired certificate; the client reads the new one."""
    monkeypatch.setattr(call_guard, "RECHECK_SECONDS", 0.05)
    ca = CertificateAuthority(tmp_path / "ca", "ours")
    files = ca.issue("server", uris=("server",))
    tls = ListenerTls(files.certificate, files.key, files.ca)
    settings = ServerSettings(
        listen="127.0.0.1:0", status_listen="127.0.0.1:0", data=tmp_path / "data", tls=tls
    )
    reasons: list[str] = []

    with running_server(settings, plugins()) as server:
        agent_files = ca.issue("agent", uris=("agent/node-a",))
        reader = ca.issue("reader", uris=("reader/x",), days=LIFETIME)
        done = threading.Event()

        def send() -> None:
            with open_stream(server.address, agent_files, "node-a") as agent:
                for number in itertools.count():
                    if done.wait(0.05):
                        return
                    store(agent, f"batch-{number}")

        def renew(error: TransportError, pause: float) -> None:
            reasons.append(str(error))
            replace(reader, ca.issue("renewed", uris=("reader/x",)))

        sending = threading.Thread(target=send)
        with ServerClient(Peer(server.address, reader)) as client:
            watch = client.watch(on_unavailable=renew)
            sending.start()
            try:
                while not reasons:
                    next(watch)
                next(watch)
            finally:
                done.set()
                sending.join()
    assert len(reasons) == 1
    assert "expired at" in reasons[0]
