"""A stream that reopens after every break, with a peer that is not there."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import pytest
from infrasight_core.errors import TransportError
from infrasight_core.net import reconnecting_stream
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.peer import Peer
from infrasight_core.net.reconnecting_stream import ReconnectingStream


class FailingStream(ReconnectingStream):
    """A stream that fails twice and then stays open.

    Args:
        fail: Raises the error of the first two attempts.
    """

    def __init__(self, fail: Callable[[], NoReturn]) -> None:
        super().__init__(Peer("localhost:1"), "server")
        self.attempts = 0
        self.reasons: list[str] = []
        self._fail = fail

    async def _stream(self) -> None:
        self.attempts += 1
        self.reasons.append(self.reason)
        if self.attempts <= 2:
            self._fail()
        self.open = True
        await asyncio.Event().wait()


class ShortStream(ReconnectingStream):
    """A stream that opens and ends at once, in order, until it has done so four times."""

    def __init__(self) -> None:
        super().__init__(Peer("localhost:1"), "server")
        self.attempts = 0

    async def _stream(self) -> None:
        self.attempts += 1
        self.open = True
        if self.attempts > 4:
            await asyncio.Event().wait()


class CountingBackoff(Backoff):
    """Counts how often the pauses begin again."""

    resets = 0

    def reset(self) -> None:
        """Begins again."""
        type(self).resets += 1
        super().reset()


def fail_unexpectedly() -> NoReturn:
    """Fails as a bug would."""
    raise AttributeError("\x1b[31mno such attribute")


def cancel_the_call() -> NoReturn:
    """Fails as gRPC does if it cancels a call by itself."""
    raise asyncio.CancelledError


async def run_until_open(stream: ReconnectingStream) -> asyncio.Task[None]:
    """Runs the stream until it is open."""
    running = asyncio.create_task(stream.run())
    async with asyncio.timeout(20):
        while not stream.open and not running.done():
            await asyncio.sleep(0.001)
    return running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting_stream, "_FIRST_PAUSE", 0.001)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (fail_unexpectedly, "unexpected error: AttributeError('\\x1b[31mno such attribute')"),
        (cancel_the_call, "the call was cancelled"),
    ],
)
def test_stream_reopens_after_an_unexpected_error(
    fail: Callable[[], NoReturn], reason: str
) -> None:
    """A bug, or a cancellation that the agent did not ask for, is a broken stream."""

    async def run() -> FailingStream:
        stream = FailingStream(fail)
        running = await run_until_open(stream)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        return stream

    stream = asyncio.run(run())
    assert stream.attempts == 3
    assert stream.reasons[1].replace("\\\\", "\\") == reason


@pytest.mark.parametrize(("stable_seconds", "resets"), [(0.0, 4), (60.0, 0)])
def test_only_a_stable_stream_shortens_the_pauses(
    monkeypatch: pytest.MonkeyPatch, stable_seconds: float, resets: int
) -> None:
    """An agent whose streams end soon after they open does not come back faster each time."""
    monkeypatch.setattr(reconnecting_stream, "_STABLE_SECONDS", stable_seconds)
    monkeypatch.setattr(reconnecting_stream, "Backoff", CountingBackoff)
    monkeypatch.setattr(CountingBackoff, "resets", 0)

    async def run() -> int:
        stream = ShortStream()
        running = asyncio.create_task(stream.run())
        async with asyncio.timeout(20):
            while stream.attempts < 5:
                await asyncio.sleep(0.001)
        counted = CountingBackoff.resets
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return counted

    assert asyncio.run(run()) == resets


class MovingStream(ReconnectingStream):
    """A stream to three peers, of which only the last is there."""

    def __init__(self) -> None:
        others = [Peer("localhost:2"), Peer("localhost:3")]
        super().__init__(Peer("localhost:1"), "server", others)
        self.tried: list[str] = []
        self.ended = asyncio.Event()

    async def _stream(self) -> None:
        self.tried.append(self._peer.address)
        if self._peer.address != "localhost:3":
            raise TransportError("nothing listens there")
        self.open = True
        await self.ended.wait()
        self.ended.clear()


def test_stream_moves_to_the_next_peer() -> None:
    """Each attempt is at the next of them, without a pause until all have been tried."""

    async def run() -> list[str]:
        stream = MovingStream()
        running = await run_until_open(stream)
        stream.ended.set()
        async with asyncio.timeout(20):
            while len(stream.tried) < 6:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return stream.tried

    assert asyncio.run(run()) == [f"localhost:{number}" for number in (1, 2, 3, 1, 2, 3)]
