"""Admits queries: a few at a time, fewer of each peer, and a bounded number that waits."""

import asyncio
from collections import Counter

from attrs import field, frozen, validators
from infrasight_core.errors import BusyError


@frozen
class SlotLimits:
    """How many queries run and wait.

    Attributes:
        running: The most queries that run at a time.
        running_per_peer: The most of one peer.
        waiting: The most queries that wait for a slot.
        waiting_per_peer: The most of one peer.
    """

    running: int = field(default=4, validator=validators.gt(0))
    running_per_peer: int = field(default=2, validator=validators.gt(0))
    waiting: int = field(default=64, validator=validators.ge(0))
    waiting_per_peer: int = field(default=16, validator=validators.ge(0))


class QuerySlots:
    """The slots of one server, for its event loop.

    Args:
        limits: How many queries run and wait.
    """

    def __init__(self, limits: SlotLimits) -> None:
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    async def acquire(self, peer: str) -> None:
        """Takes a slot; waits for it in the order of the calls.

        A peer that has all its slots does not delay the others.

        Raises:
            BusyError: Too many queries wait.
        """
        if self._has_room(peer):
            self._running[peer] += 1
            return
        self._check_queue(peer)
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
            if self._has_room(waiting_peer):
                self._waiting.remove(entry)
                self._running[waiting_peer] += 1
                granted.set_result(None)
                return

    def _has_room(self, peer: str) -> bool:
        if self._running.total() >= self._limits.running:
            return False
        return self._running[peer] < self._limits.running_per_peer

    def _check_queue(self, peer: str) -> None:
        of_peer = sum(1 for waiting_peer, _ in self._waiting if waiting_peer == peer)
        if of_peer >= self._limits.waiting_per_peer:
            raise BusyError(f"{of_peer} queries of {peer} are already waiting; try again later")
        if len(self._waiting) >= self._limits.waiting:
            raise BusyError(f"{len(self._waiting)} queries are already waiting; try again later")
