"""Those who want to see events as they are stored; a slow one misses some and is told how many."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa

from infrasight_server.metrics import WATCHERS

_QUEUED_BYTES = 16 << 20


class Watcher:
    """One who watches.

    Args:
        probes: Whose events; empty for all.
    """

    def __init__(self, probes: Collection[str]) -> None:
        self._probes = frozenset(probes)
        self._queue: deque[tuple[str, pa.Table]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._changed = asyncio.Event()
        self._ended = False

    def offer(self, probe: str, rows: pa.Table) -> None:
        """Queues rows, or counts them as dropped when too much is queued."""
        if not rows.num_rows or (self._probes and probe not in self._probes):
            return
        if self._queue and self._bytes + rows.nbytes > _QUEUED_BYTES:
            self._dropped += rows.num_rows
        else:
            self._queue.append((probe, rows))
            self._bytes += rows.nbytes
        self._changed.set()

    def end(self) -> None:
        """No more rows will come."""
        self._ended = True
        self._changed.set()

    async def next(self) -> tuple[str, pa.Table, int] | None:
        """The next rows with their probe, and how many were dropped since the last; None at the end."""
        while not self._queue:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        probe, rows = self._queue.popleft()
        self._bytes -= rows.nbytes
        dropped, self._dropped = self._dropped, 0
        return probe, rows, dropped


class Watchers:
    """All who watch."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watching(self, probes: Collection[str]) -> Iterator[Watcher]:
        """Takes a watcher in for as long as the context lasts."""
        watcher = Watcher(probes)
        self._watchers.add(watcher)
        try:
            with WATCHERS.track_inprogress():
                yield watcher
        finally:
            self._watchers.remove(watcher)

    def publish(self, probe: str, rows: pa.Table) -> None:
        """Offers stored rows to everyone."""
        for watcher in self._watchers:
            watcher.offer(probe, rows)

    def end(self) -> None:
        """Lets everyone see what is queued and go."""
        for watcher in self._watchers:
            watcher.end()
