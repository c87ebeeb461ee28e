"""Recordings that go on through all tests, because loading the programs takes longer than what they record; and sockets."""

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
    with recording(probe, module) as kept:
        yield kept
    counts = kept.counts
    assert (counts.dropped, counts.entries_full) == (0, 0)
    assert counts.seen == counts.submitted == counts.read


@pytest.fixture(scope="session")
def connects() -> Iterator[Recording]:
    """Of the probe connect; in the end nothing has been lost."""
    yield from _recorded("connect", infrasight_probe_net.connect)


@pytest.fixture(scope="session")
def accepts() -> Iterator[Recording]:
    """Of the probe accept; in the end nothing has been lost."""
    yield from _recorded("accept", infrasight_probe_net.accept)


@pytest.fixture
def record(connects: Recording) -> Callable[..., tuple[list[Row], list[Row], Any]]:
    """Records what a child does: the rows of its calls of connect, those of outcomes, and what it returned."""

    def recorded(work: Callable[[], Any], uid: int = 0) -> tuple[list[Row], list[Row], Any]:
        pid, said = in_child(work, uid)
        connects.wait("connect")
        rows = rows_of(connects, pid, uid)
        return (
            [r for r in rows if r["stage"] == b"call"],
            [r for r in rows if r["stage"] == b"outcome"],
            said,
        )

    return recorded


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on the loopback and that nobody accepts from."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of the loopback that refuses every connection, because it is bound and nobody listens."""
    with socket.socket() as bound, socket.socket(INET6) as bound6:
        bound.bind(("127.0.0.1", 0))
        bound6.bind(("::1", bound.getsockname()[1]))
        yield bound.getsockname()[1]


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listening socket whose queue is full, so that the kernel lets further attempts wait."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield server
