"""Publishes events to Watch calls as they arrive; a slow watcher loses some and learns how many.

The queues of one peer's watchers share a budget, so that no peer holds more by watching more often.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
from attrs import frozen
from infrasight_core.errors import LimitError

from infrasight_server.metrics import WATCHERS
from infrasight_server.open_calls import OpenCalls

_QUEUED_BYTES = 16 << 20


@frozen(eq=False)
class WatchedRows:
    """Rows for one watcher.

    Attributes:
        probe: The probe that recorded them.
        rows: The rows, with all stored columns.
        dropped: The number of rows that the watcher was too slow for since the rows before.
    """

    probe: str
    rows: pa.RecordBatch
    dropped: int


class Watcher:
    """One Watch call's queue of rows.

    Args:
        probes: The probes to watch; empty for all.
        peer: The name of the peer that watches.
        queued: The bytes that each peer's watchers have queued.
    """

    def __init__(self, probes: Collection[str], peer: str, queued: Counter[str]) -> None:
        self._probes = frozenset(probes)
        self._peer = peer
        self._peers_bytes = queued
        self._queue: deque[tuple[str, pa.RecordBatch]] = deque()
        self._dropped = 0
        self._changed = asyncio.Event()
        self._ended = False

    def offer(self, probe: str, rows: pa.RecordBatch) -> None:
        """Queues rows of a watched probe, or counts them as dropped if the queue is full."""
        if not rows.num_rows or (self._probes and probe not in self._probes):
            return
        if self._queue and self._peers_bytes[self._peer] + rows.nbytes > _QUEUED_BYTES:
            self._dropped += rows.num_rows
        else:
            self._queue.append((probe, rows))
            self._peers_bytes[self._peer] += rows.nbytes
        self._changed.set()

    def clear(self) -> None:
        """Releases the queued rows."""
        while self._queue:
            self._pop()

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
        probe, rows = self._pop()
        watched = WatchedRows(probe, rows, self._dropped)
        self._dropped = 0
        return watched

    def _pop(self) -> tuple[str, pa.RecordBatch]:
        probe, rows = self._queue.popleft()
        self._peers_bytes[self._peer] -= rows.nbytes
        return probe, rows


class Watchers:
    """The open Watch calls.

    Args:
        per_peer: The most calls of one peer.
    """

    def __init__(self, per_peer: int) -> None:
        self._per_peer = per_peer
        self._watchers: set[Watcher] = set()
        self._calls = OpenCalls()
        self._queued: Counter[str] = Counter()

    @contextmanager
    def watching(self, probes: Collection[str], peer: str) -> Iterator[Watcher]:
        """Registers a watcher for the duration of the context.

        Raises:
            LimitError: The peer has too many watchers.
        """
        if self._calls.of(peer) >= self._per_peer:
            raise LimitError(
                f"{peer} has {self._per_peer} watchers already; end one, "
                "or raise the server's watchers_per_peer"
            )
        watcher = Watcher(probes, peer, self._queued)
        self._watchers.add(watcher)
        try:
            with self._calls.count(peer), WATCHERS.track_inprogress():
                yield watcher
        finally:
            self._watchers.remove(watcher)
            watcher.clear()
            if not self._calls.of(peer):
                del self._queued[peer]

    def publish(self, probe: str, rows: pa.RecordBatch) -> None:
        """Offers stored rows to every watcher."""
        for watcher in self._watchers:
            watcher.offer(probe, rows)

    def end(self) -> None:
        """Ends every watch after its queued rows."""
        for watcher in self._watchers:
            watcher.end()
