"""Bounds the memory of pending batches: a stream that needs more waits, and so does its agent.

The memory is shared fairly: no node may hold more than a share of it, and of those who wait, the
node that holds least is served first.
"""

import asyncio
from collections import Counter

from attrs import frozen

from infrasight_server.metrics import PENDING_BYTES

_SHARE = 3 / 4


@frozen(eq=False)
class _Waiter:
    node: str
    size: int
    granted: asyncio.Future[None]


class MemoryBudget:
    """Bytes that pending batches may hold together.

    Args:
        limit: The number of bytes. A node may hold three quarters of it; a single larger batch
            gets its memory when no other holds any.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._held: Counter[str] = Counter()
        self._waiters: list[_Waiter] = []

    async def acquire(self, node: str, size: int) -> None:
        """Waits until so many bytes are free for a node, and reserves them."""
        waiter = _Waiter(node, size, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.release(node, size)
            else:
                self._waiters.remove(waiter)
                self._grant()
            raise

    def resize(self, node: str, reserved: int, size: int) -> None:
        """Replaces reserved bytes by as many as are really needed, without waiting."""
        self._reserve(node, size - reserved)
        self._grant()

    def release(self, node: str, size: int) -> None:
        """Returns reserved bytes."""
        self.resize(node, size, 0)

    def _grant(self) -> None:
        while (waiter := self._next_served()) is not None:
            self._waiters.remove(waiter)
            self._reserve(waiter.node, waiter.size)
            waiter.granted.set_result(None)

    def _next_served(self) -> _Waiter | None:
        """Returns the waiter whose turn it is; None if there is not enough memory for it.

        One that needs more than is free blocks those behind it, so that it is served in the end. A
        node that would exceed its share blocks no other.
        """
        for waiter in sorted(self._waiters, key=lambda waiter: self._held[waiter.node]):
            if waiter.granted.done():  # cancelled; its task removes it
                continue
            held = self._held[waiter.node]
            if held and held + waiter.size > self._limit * _SHARE:
                continue
            fits = not self._used or self._used + waiter.size <= self._limit
            return waiter if fits else None
        return None

    def _reserve(self, node: str, size: int) -> None:
        self._used += size
        self._held[node] += size
        if not self._held[node]:
            del self._held[node]
        PENDING_BYTES.set(self._used)
