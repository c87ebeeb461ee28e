"""Runs users' queries: guarded, a few at a time, answered in pieces of bounded size."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from infrasight_core.net import ipc

from infrasight_server.query import guard
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.connections import CONNECTIONS

_PIECE_BYTES = 8 << 20


class QueryRunner:
    """Runs queries in worker threads.

    Args:
        store: The store.
        table_functions: The names that `Store.table_functions` returns.
    """

    def __init__(self, store: Store, table_functions: frozenset[str]) -> None:
        self._store = store
        self._table_functions = table_functions
        self._running = asyncio.Semaphore(CONNECTIONS)
        self._threads = ThreadPoolExecutor(CONNECTIONS, "query")

    async def run(self, sql: str) -> AsyncIterator[bytes]:
        """Yields the answer as complete Arrow IPC streams, one at least.

        Raises:
            QueryError: The guard or the store rejects the statement, or the query fails.
            StoreUnavailableError: The store does not answer.
        """
        loop = asyncio.get_running_loop()
        async with self._running:
            pieces = _LockedIterator(self._pieces(sql))
            try:
                while (piece := await loop.run_in_executor(self._threads, pieces.next)) is not None:
                    yield piece
            finally:
                self._threads.submit(pieces.close)

    def close(self) -> None:
        """Accepts no further query."""
        self._threads.shutdown(wait=False)

    def _pieces(self, sql: str) -> Iterator[bytes]:
        statement = self._store.formatted(sql)
        guard.check(statement, self._table_functions)
        for batch in self._store.query(statement):
            piece_rows = max(1, batch.num_rows * _PIECE_BYTES // max(batch.nbytes, 1))
            for start in range(0, max(batch.num_rows, 1), piece_rows):
                yield ipc.to_bytes(batch.slice(start, piece_rows))


class _LockedIterator:
    """A generator that may be closed while another thread is running it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._lock = Lock()

    def next(self) -> bytes | None:
        with self._lock:
            return next(self._pieces, None)

    def close(self) -> None:
        close: Callable[[], None] = self._pieces.close  # type: ignore[attr-defined]
        with self._lock:
            close()
