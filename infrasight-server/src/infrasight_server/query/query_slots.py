"""Admits queries: a few at a time, fewer of each peer, and a bounded number that waits.

A call stays open until its client has read the end of the answer or has left. An unread call holds
memory also when its query has ended, so that open calls are bounded, too.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import field, frozen, validators
from infrasight_core.errors import LimitError

from infrasight_server.open_calls import OpenCalls


@frozen
class SlotLimits:
    """How many queries run and wait.

    Attributes:
        running: The most queries that run at a time.
        running_per_peer: The most of one peer.
        waiting: The most queries that wait for a slot.
        calls_per_peer: The most open calls of one peer.
    """

    running: int = field(default=4, validator=validators.gt(0))
    running_per_peer: int = field(default=2, validator=validators.gt(0))
    waiting: int = field(default=64, validator=validators.ge(0))
    calls_per_peer: int = field(default=16, validator=validators.gt(0))


class QuerySlots:
    """The slots of one server, for its event loop.

    Args:
        limits: How many queries run and wait.
    """

    def __init__(self, limits: SlotLimits) -> None:
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._calls = OpenCalls()

    @contextmanager
    def open_call(self, peer: str) -> Iterator[None]:
        """Counts a call of a peer while the body runs.

        Raises:
            LimitError: The peer has too many open calls.
        """
        if self._calls.of(peer) >= self._limits.calls_per_peer:
            raise LimitError(
                f"{peer} has {self._calls.of(peer)} open queries already; "
                "read or close one, or try again later"
            )
        with self._calls.count(peer):
            yield

    async def acquire(self, peer: str) -> None:
        """Takes a slot; waits for it in the order of the calls.

        A peer that has all its slots does not delay the others.

        Raises:
            LimitError: Too many queries wait.
        """
        if self._has_room(peer):
            self._running[peer] += 1
            return
        if len(self._waiting) >= self._limits.waiting:
            raise LimitError(f"{len(self._waiting)} queries are already waiting; try again later")
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (peer, granted)
        self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self.release(peer)
            raise

    def release(self, peer: str) -> None:
        """Gives a slot back, and to the first query that waits and may have it."""
        self._running[peer] -= 1
        if not self._running[peer]:
            del self._running[peer]
        for entry in self._waiting:
            waiting_peer, granted = entry
            # A cancelled call is in the list until its task runs.
            if self._has_room(waiting_peer) and not granted.done():
                self._waiting.remove(entry)
                self._running[waiting_peer] += 1
                granted.set_result(None)
                return

    def _has_room(self, peer: str) -> bool:
        if self._running.total() >= self._limits.running:
            return False
        return self._running[peer] < self._limits.running_per_peer
