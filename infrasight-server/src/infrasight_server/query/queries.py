"""People's queries: guarded, a few at a time, answered in pieces of bounded size."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from infrasight_core.net import ipc

from infrasight_server.query import guard
from infrasight_server.store.connections import CONNECTIONS
from infrasight_server.store.store import Store

_PIECE_BYTES = 8 << 20


class Queries:
    """Runs queries in worker threads.

    Args:
        store: Who is asked.
        table_functions: What `Store.table_functions` gives.
    """

    def __init__(self, store: Store, table_functions: frozenset[str]) -> None:
        self._store, self._table_functions = store, table_functions
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._threads = ThreadPoolExecutor(CONNECTIONS, "query")

    async def answer(self, sql: str) -> AsyncIterator[bytes]:
        """The answer as whole Arrow IPC streams, the first one even when there are no rows.

        Raises:
            QueryError: The statement is rejected, or the store fails at it.
            StoreUnavailableError: The store does not answer.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            pieces = _Locked(self._pieces(sql))
            try:
                while (piece := await loop.run_in_executor(self._threads, pieces.next)) is not None:
                    yield piece
            finally:
                self._threads.submit(pieces.close)

    def close(self) -> None:
        """Takes no further query."""
        self._threads.shutdown(wait=False)

    def _pieces(self, sql: str) -> Iterator[bytes]:
        statement = self._store.formatted(sql)
        guard.check(statement, self._table_functions)
        for batch in self._store.query(statement):
            rows = max(1, batch.num_rows * _PIECE_BYTES // max(batch.nbytes, 1))
            for start in range(0, max(batch.num_rows, 1), rows):
                yield ipc.to_bytes(batch.slice(start, rows))


class _Locked:
    """A generator that is closed when its asker goes away, though a thread may be in it just then."""

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
