"""Inserts into small tables of which only the newest row of a key holds: accounts, rejections, containers.

What waits for its insert is kept by key too, so that it stays small however often a thing is told.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import pyarrow as pa
import structlog
from infrasight_core.errors import StoreError, StoreUnavailableError

from infrasight_server import metrics
from infrasight_server.store.store import Store

log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_REST = 9  # times as long as an insert took it rests before the next, so that it keeps the store busy for a tenth of the time


class UpsertTables:
    """Writes rows of some tables together, some at a time.

    Args:
        store: Where they go.
        threads: What runs the inserts.
        linger_seconds: The least time between two inserts.
        schemas: The tables' columns, by table.
        after_insert: Called in a worker thread when rows are in; may raise as `Store.command` does.
    """

    def __init__(
        self,
        store: Store,
        threads: Executor,
        linger_seconds: float,
        schemas: Mapping[str, pa.Schema],
        after_insert: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._threads, self._linger_seconds = store, threads, linger_seconds
        self._schemas, self._after_insert = schemas, after_insert
        self._rows = self._nothing()
        self._stored: asyncio.Future[bool] | None = None  # of what waits now
        self._changed, self._closing = asyncio.Event(), asyncio.Event()

    def waiting(self, table: str, key: tuple[str, ...]) -> dict[str, Any] | None:
        """The row of a key that has not been inserted yet."""
        return self._rows[table].get(key)

    def put(self, table: str, key: tuple[str, ...], row: dict[str, Any]) -> None:
        """Takes a row, in place of one of the same key that waits; `stored` tells when it is in."""
        self._rows[table][key] = row

    def stored(self) -> asyncio.Future[bool]:
        """Done when everything that was put so far is in the store. Others wait for it too: shield it."""
        if self._stored is None:
            self._stored = asyncio.get_running_loop().create_future()
        self._changed.set()
        return self._stored

    def close(self) -> None:
        """Lets `run` return as soon as everything is stored."""
        self._closing.set()
        self._changed.set()

    async def run(self) -> None:
        """Inserts what is put until `close`."""
        last, took = -math.inf, 0.0
        while not self._closing.is_set() or self._stored is not None:
            await self._changed.wait()
            self._changed.clear()
            await self._wait(last + max(self._linger_seconds, _REST * took) - time.monotonic())
            began = time.monotonic()
            stored, self._stored = self._stored, None
            if stored is not None:
                took = await self._insert()
                stored.set_result(
                    False
                )  # they were not there before, as a writer's batches may have been
            last = began + took

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), max(seconds, 0))
        except TimeoutError:
            return

    async def _insert(self) -> float:
        """Inserts what waits; returns how many seconds the store was busy with it."""
        waiting, self._rows = self._rows, self._nothing()
        tables = {
            t: pa.Table.from_pylist(list(rows.values()), self._schemas[t])
            for t, rows in waiting.items()
            if rows
        }
        return sum([await self._insert_table(table, rows) for table, rows in tables.items()], 0.0)

    async def _insert_table(self, table: str, rows: pa.Table) -> float:
        """Inserts however long the store is away; again does no harm, as the tables keep the newest of each key."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._insert_once, table, rows
                )
                break
            except StoreUnavailableError as error:
                metrics.INSERT_RETRIES.labels(table).inc()
                log.warning(
                    "store is away; the insert is tried again",
                    table=table,
                    reason=str(error),
                    pause=pause,
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except StoreError as error:
                metrics.UPSERTS_REJECTED.labels(table).inc(rows.num_rows)
                log.error(
                    "rows lost: the store rejects them",
                    table=table,
                    rows=rows.num_rows,
                    reason=str(error),
                )
                break
        return time.monotonic() - began

    def _insert_once(self, table: str, rows: pa.Table) -> None:
        self._store.insert(table, rows, uuid.uuid4().hex)
        self._after_insert()

    def _nothing(self) -> dict[str, dict[tuple[str, ...], dict[str, Any]]]:
        return {table: {} for table in self._schemas}
