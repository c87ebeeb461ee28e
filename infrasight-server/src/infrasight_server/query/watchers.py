"""Publishes stored events to Watch calls; a slow watcher loses some and learns how many."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
from attrs import frozen

from infrasight_server.metrics import WATCHERS

_QUEUED_BYTES = 16 << 20


@frozen(eq=False)
class WatchedRows:
    """Stored rows for one watcher.

    Attributes:
        probe: The probe that recorded them.
        rows: The rows, with all stored columns.
        dropped: The number of rows that the watcher was too slow for since the rows before.
    """

    probe: str
    rows: pa.Table
    dropped: int


class Watcher:
    """One Watch call's queue of stored rows.

    Args:
        probes: The probes to watch; empty for all.
    """

    def __init__(self, probes: Collection[str]) -> None:
        self._probes = frozenset(probes)
        self._queue: deque[tuple[str, pa.Table]] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._changed = asyncio.Event()
        self._ended = False

    def offer(self, probe: str, rows: pa.Table) -> None:
        """Queues rows of a watched probe, or counts them as dropped if the queue is full."""
        if not rows.num_rows or (self._probes and probe not in self._probes):
            return
        if self._queue and self._queued_bytes + rows.nbytes > _QUEUED_BYTES:
            self._dropped += rows.num_rows
        else:
            self._queue.append((probe, rows))
            self._queued_bytes += rows.nbytes
        self._changed.set()

    def end(self) -> None:
        """Ends the watch after the queued rows."""
        self._ended = True
        self._changed.set()

    async def next(self) -> WatchedRows | None:
        """Waits for the next rows; None after `end`."""
        while not self._queue:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        probe, rows = self._queue.popleft()
        self._queued_bytes -= rows.nbytes
        watched = WatchedRows(probe, rows, self._dropped)
        self._dropped = 0
        return watched


class Watchers:
    """The open Watch calls."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watching(self, probes: Collection[str]) -> Iterator[Watcher]:
        """Registers a watcher for the duration of the context."""
        watcher = Watcher(probes)
        self._watchers.add(watcher)
        try:
            with WATCHERS.track_inprogress():
                yield watcher
        finally:
            self._watchers.remove(watcher)

    def publish(self, probe: str, rows: pa.Table) -> None:
        """Offers stored rows to every watcher."""
        for watcher in self._watchers:
            watcher.offer(probe, rows)

    def end(self) -> None:
        """Ends every watch after its queued rows."""
        for watcher in self._watchers:
            watcher.end()
