"""A server with mutual TLS, and calls to it with any certificate, for tests of access control."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from infrasight.v1.stream_pb2 import Batch, Hello, QueryRequest, WatchRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.peer import Peer

from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.certificates import CertificateAuthority, tls_options
from infrasight_testbed.execve_batches import batch, hello, table
from infrasight_testbed.system import System, loopback_address, running_system

NODE = "node-a"
VICTIM = "node-b"
_SECONDS = 30


class Site:
    """A server with mutual TLS, its CA and a reader.

    Args:
        system: The server, which runs.
        authority: The CA.
    """

    def __init__(self, system: System, authority: CertificateAuthority) -> None:
        self.authority = authority
        self._system = system
        self._reader = authority.issue("honest", uris=("reader/honest",))

    def peer(self, *uris: str, **fields: Any) -> Peer:
        """The server, for a new certificate with these names."""
        return Peer(self._system.address, self.authority.issue("attacker", uris=uris, **fields))

    def rows(self, sql: str) -> int:
        """The number that a statement of the honest reader returns."""
        [row] = self._system.query(sql, *tls_options(self._reader))
        [value] = row.values()
        return int(value)


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Runs a server on which the agent of NODE has written; the other honest peer is a reader."""
    authority = CertificateAuthority(folder / "ca", "ours")
    with running_system(folder) as system:
        system.address = loopback_address()
        system.start_server(*tls_options(authority.issue("server", uris=("server",))))
        site = Site(system, authority)
        honest = (hello(node=NODE), batch("honest", table(3)))
        assert send(site.peer(f"agent/{NODE}"), *honest) is grpc.StatusCode.OK
        assert site.rows(f"SELECT count() FROM execve_events WHERE node = '{NODE}'") == 3
        yield site


def send(peer: Peer, *messages: Hello | Batch) -> grpc.StatusCode:
    """Sends messages on a stream; returns the status with which the server ends it."""
    with AgentClient(peer.address, sync_channel(peer)) as agent:
        for message in messages:
            agent.send(message)
        agent.end()
        try:
            while True:
                agent.answer()
        except StopIteration:
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return status(error)


def status(error: grpc.RpcError) -> grpc.StatusCode:
    """The status of a failed call."""
    code: grpc.StatusCode = error.code()
    return code


def fail(call: Callable[[EventServiceStub], Iterator[object]], peer: Peer) -> grpc.RpcError:
    """Reads the responses of a call that must fail; returns how."""
    with sync_channel(peer) as channel, pytest.raises(grpc.RpcError) as raised:
        next(iter(call(EventServiceStub(channel))))
    return raised.value


def query(stub: EventServiceStub) -> Iterator[object]:
    """Asks for everything."""
    answers: Iterator[object] = stub.Query(QueryRequest(sql="SELECT 1 AS one"), timeout=_SECONDS)
    return answers


def watch(stub: EventServiceStub) -> Iterator[object]:
    """Watches everything."""
    answers: Iterator[object] = stub.Watch(WatchRequest(), timeout=_SECONDS)
    return answers
