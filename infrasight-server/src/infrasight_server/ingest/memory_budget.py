"""Bounds the memory of pending batches: a stream that needs more waits, and so does its agent."""

import asyncio

from infrasight_server.metrics import PENDING_BYTES


class MemoryBudget:
    """Bytes that pending batches may hold together.

    Args:
        limit: The number of bytes. A single larger batch gets its memory when no other holds any.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._released = asyncio.Event()

    async def acquire(self, size: int) -> None:
        """Waits until so many bytes are free, and reserves them."""
        while self._used and self._used + size > self._limit:
            self._released.clear()
            await self._released.wait()
        self._used += size
        PENDING_BYTES.set(self._used)

    def release(self, size: int) -> None:
        """Returns reserved bytes."""
        self._used -= size
        PENDING_BYTES.set(self._used)
        self._released.set()
