"""Recordings that run through all tests, because loading takes longer than the tests; sockets."""

import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import infrasight_probe_net.accept
import infrasight_probe_net.connect
import pytest
from infrasight_recording import Recording, recording
from infrasight_testbed.socket_rows import INET6, Row, rows_of
from infrasight_testbed.syscalls import in_child


def _recorded(probe: str, module: ModuleType) -> Iterator[Recording]:
    with recording(probe, module) as running:
        yield running
    running.assert_accounted()
    assert running.counts.entries_full == 0


@pytest.fixture(scope="session")
def connects() -> Iterator[Recording]:
    """A running recording of connect; in the end every event is accounted for."""
    yield from _recorded("connect", infrasight_probe_net.connect)


@pytest.fixture(scope="session")
def accepts() -> Iterator[Recording]:
    """A running recording of accept; in the end every event is accounted for."""
    yield from _recorded("accept", infrasight_probe_net.accept)


@pytest.fixture
def record(connects: Recording) -> Callable[..., tuple[list[Row], list[Row], Any]]:
    """Does some work in a child; returns its rows of calls and of outcomes, and the result."""

    def record_child(work: Callable[[], Any], uid: int = 0) -> tuple[list[Row], list[Row], Any]:
        pid, result = in_child(work, uid)
        connects.wait("connect")
        rows = rows_of(connects, pid, uid)
        calls = [row for row in rows if row["stage"] == b"call"]
        outcomes = [row for row in rows if row["stage"] == b"outcome"]
        return calls, outcomes, result

    return record_child


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on the loopback; no connection is accepted from it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of the loopback that refuses every connection: bound, but not listening."""
    with socket.socket() as bound, socket.socket(INET6) as bound6:
        bound.bind(("127.0.0.1", 0))
        bound6.bind(("::1", bound.getsockname()[1]))
        yield bound.getsockname()[1]


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listening socket whose queue is full, so that further attempts wait."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield server
