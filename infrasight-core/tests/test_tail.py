"""`infrasight tail` in a pipe."""

import json
import signal
import subprocess
from collections.abc import Iterator

import pyarrow as pa
import pytest
from infrasight_testbed.command import COMMAND, environment, restore_interrupt
from infrasight_testbed.event_server import EventServer

TABLE = pa.table(
    {"pid": pa.array([1, 2, 3], pa.uint32()), "uid": pa.array([0, 1000, 0], pa.uint32())}
)


@pytest.fixture
def server() -> Iterator[EventServer]:
    """A server."""
    with EventServer() as running:
        yield running


@pytest.fixture
def tailing(server: EventServer) -> Iterator[subprocess.Popen[str]]:
    """`infrasight tail` in a pipe, which has shown a TABLE; each TABLE has two rows of uid 0."""
    server.events.put(("execve", TABLE, 0))
    command = [*COMMAND, "tail", "execve", "--where", "uid=0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(server),
        preexec_fn=restore_interrupt,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        assert json.loads(first) == {"probe": "execve", "pid": 1, "uid": 0}
        assert json.loads(process.stdout.readline())["pid"] == 3
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_silently_on_a_signal(
    tailing: subprocess.Popen[str], number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end it with status 0 and no message."""
    tailing.send_signal(number)
    assert tailing.communicate(timeout=60) == ("", "")
    assert tailing.returncode == 0


def test_tail_ends_when_its_reader_ends(tailing: subprocess.Popen[str]) -> None:
    """It ends as soon as its pipe is closed, even if no event comes."""
    assert tailing.stdout is not None
    assert tailing.stderr is not None
    tailing.stdout.close()
    assert tailing.wait(60) == 0
    assert tailing.stderr.read() == ""


def test_tail_reports_dropped_events_and_waits_for_the_server(
    tailing: subprocess.Popen[str], server: EventServer
) -> None:
    """Both are reported on stderr; it continues when the server is available again."""
    assert tailing.stdout is not None
    assert tailing.stderr is not None
    server.events.put(("execve", TABLE, 12))
    assert (
        tailing.stderr.readline()
        == "infrasight: 12 events dropped here: they came faster than they could be shown\n"
    )
    assert [json.loads(tailing.stdout.readline())["pid"] for _ in range(2)] == [1, 3]
    server.stop()
    assert "trying again in" in tailing.stderr.readline()
    server.start()
    server.events.put(("execve", TABLE.slice(2), 0))
    assert json.loads(tailing.stdout.readline())["pid"] == 3
