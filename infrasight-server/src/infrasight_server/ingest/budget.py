"""A bound on memory: who needs more than is left waits, so that the wait reaches the sender."""

import asyncio

from infrasight_server.metrics import PENDING_BYTES


class Budget:
    """Bytes that may be held at once.

    Args:
        limit: How many; one that needs more gets it when nobody else holds any.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._freed = asyncio.Event()

    async def take(self, size: int) -> None:
        """Waits until so many bytes may be held."""
        while self._used and self._used + size > self._limit:
            self._freed.clear()
            await self._freed.wait()
        self._used += size
        PENDING_BYTES.set(self._used)

    def give_back(self, size: int) -> None:
        """They are held no longer."""
        self._used -= size
        PENDING_BYTES.set(self._used)
        self._freed.set()
