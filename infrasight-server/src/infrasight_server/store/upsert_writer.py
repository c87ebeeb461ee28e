"""Writes the tables that keep the newest row of each key: accounts, rejections and containers.

Rows that wait for their insert are held by key too, so that memory stays bounded however often a
row changes. A row that the store cannot hold affects no other row.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import pyarrow as pa
import structlog
from attrs import frozen
from infrasight_core.errors import StoreError, StoreUnavailableError
from infrasight_core.net.backoff import Backoff

from infrasight_server import metrics
from infrasight_server.store.clickhouse import Store

log = structlog.get_logger(__name__)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_REST_FACTOR = 9
"""An insert is followed by a rest that many times as long, so that upserts occupy the store for at
most a tenth of the time."""


@frozen
class UpsertTable:
    """A table that keeps the newest row of each key.

    Attributes:
        schema: Its columns.
        version: The column whose greatest value is the newest; "" where the last row wins.
    """

    schema: pa.Schema
    version: str = ""


class _InsertGroup:
    """The rows of the next insert, by table and key, and the future of those who wait for it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class UpsertWriter:
    """Writes rows of several tables, one insert per table at a time.

    Args:
        store: The store.
        threads: Runs the inserts.
        linger_seconds: The shortest time between the beginnings of two inserts.
        tables: The tables by name.
        after_insert: Called in a worker thread after each insert; may raise like `Store.command`.
    """

    def __init__(
        self,
        store: Store,
        threads: Executor,
        linger_seconds: float,
        tables: Mapping[str, UpsertTable],
        after_insert: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._linger_seconds = linger_seconds
        self._tables = tables
        self._after_insert = after_insert
        self._next_group: _InsertGroup | None = None
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()

    def put(self, table: str, key: tuple[str, ...], row: dict[str, Any]) -> asyncio.Future[None]:
        """Queues a row for the next insert, unless a newer row with the same key waits already.

        Returns:
            The future of that insert: done when the store has the newer of the two rows. Several
            callers share it: shield it from the cancellation of one of them.
        """
        if self._next_group is None:
            self._next_group = _InsertGroup()
        rows = self._next_group.rows.setdefault(table, {})
        version = self._tables[table].version
        waiting = rows.get(key)
        if waiting is None or not version or waiting[version] <= row[version]:
            rows[key] = row
        self._changed.set()
        return self._next_group.stored

    def close(self) -> None:
        """Makes `run` return as soon as every row is stored."""
        self._closing.set()
        self._changed.set()

    async def run(self) -> None:
        """Inserts the rows that are put until `close`."""
        last_insert = -math.inf
        busy_seconds = 0.0
        while not self._closing.is_set() or self._next_group is not None:
            await self._changed.wait()
            self._changed.clear()
            due = last_insert + max(self._linger_seconds, _REST_FACTOR * busy_seconds)
            await self._wait_until(due)
            # Rows that are put from here on belong to a new group, and so to a later insert.
            group = self._next_group
            self._next_group = None
            began = time.monotonic()
            if group is not None:
                busy_seconds = await self._complete(group)
            last_insert = began + busy_seconds

    async def _wait_until(self, due: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), max(due - time.monotonic(), 0))
        except TimeoutError:
            return

    async def _complete(self, group: _InsertGroup) -> float:
        """Inserts the group's rows; returns for how many seconds the store was busy with it."""
        busy_seconds = 0.0
        try:
            for table, rows in group.rows.items():
                busy_seconds += await self._insert_rows(table, list(rows.values()))
        except Exception as error:
            # The agents of these rows get no answer, and send them again.
            group.stored.set_exception(error)
            raise
        group.stored.set_result(None)
        return busy_seconds

    async def _insert_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> float:
        """Inserts rows; returns for how many seconds the store was busy with them.

        If the store rejects them, halves are inserted, until only the bad rows are left out.
        """
        try:
            return await self._insert_with_retries(table, rows)
        except (StoreError, pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            if len(rows) == 1:
                metrics.UPSERTS_REJECTED.labels(table).inc()
                log.error("store rejected a row", table=table, row=dict(rows[0]), reason=str(error))
                return 0.0
        middle = len(rows) // 2
        busy_seconds = await self._insert_rows(table, rows[:middle])
        return busy_seconds + await self._insert_rows(table, rows[middle:])

    async def _insert_with_retries(self, table: str, rows: Sequence[Mapping[str, Any]]) -> float:
        """Inserts rows, retrying while the store is unavailable; returns the last attempt's time.

        A repeated insert is harmless, because the table keeps the newest row of each key.
        """
        loop = asyncio.get_running_loop()
        schema = self._tables[table].schema
        # Not part of the time for which the store is busy: it may import pandas, for a second.
        columns = await loop.run_in_executor(
            self._threads, pa.Table.from_pylist, list(rows), schema
        )
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            began = time.monotonic()
            try:
                await loop.run_in_executor(self._threads, self._insert_once, table, columns)
                return time.monotonic() - began
            except StoreUnavailableError as error:
                pause = backoff.next_pause()
                metrics.INSERT_RETRIES.labels(table).inc()
                log.warning(
                    "store unavailable; retrying the insert",
                    table=table,
                    reason=str(error),
                    pause=pause,
                )
                await asyncio.sleep(pause)

    def _insert_once(self, table: str, rows: pa.Table) -> None:
        self._store.insert(table, rows, uuid.uuid4().hex)
        try:
            self._after_insert()
        except StoreUnavailableError:
            raise
        except StoreError as error:
            metrics.RELOADS_FAILED.inc()
            log.error("cannot reload the known containers", reason=str(error))
