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
from attrs import define, field, frozen
from infrasight_core.errors import StoreError, StoreUnavailableError, TableMissingError
from infrasight_core.net.backoff import Backoff

from infrasight_server import metrics
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.table_health import TableHealth

log = structlog.get_logger(__name__)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_REST_FACTOR = 9
"""An insert is followed by a rest that many times as long, so that upserts occupy the store for at
most a tenth of the time; but the answers to agents wait for it, so it is bounded."""
_Row = dict[str, Any]
_Rows = dict[tuple[str, ...], _Row]  # by key


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
        self.rows: dict[str, _Rows] = {}
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@define
class _Attempt:
    """What an attempt to insert some rows has come to.

    Attributes:
        has_inserted: Whether the store has taken any row.
        rejected: The rows that it rejected, by key, each with the reason.
        busy_seconds: For how many seconds the store was busy.
    """

    has_inserted: bool = False
    rejected: dict[tuple[str, ...], tuple[_Row, str]] = field(factory=dict)
    busy_seconds: float = 0.0


class UpsertWriter:
    """Writes rows of several tables, one insert per table at a time.

    Args:
        store: The store.
        threads: Runs the inserts.
        linger_seconds: The shortest time between the beginnings of two inserts.
        tables: The tables by name.
        create_tables: Called in a worker thread when a table is missing; raises StoreError.
        after_insert: Called in a worker thread after each insert; may raise like `Store.command`.
    """

    def __init__(
        self,
        store: Store,
        threads: Executor,
        linger_seconds: float,
        tables: Mapping[str, UpsertTable],
        create_tables: Callable[[], object],
        after_insert: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._linger_seconds = linger_seconds
        self._tables = tables
        self._create_tables = create_tables
        self._after_insert = after_insert
        self._health = {table: TableHealth(table) for table in tables}
        self._group: _InsertGroup | None = None
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
        self._add_newest(table, self._next_group.rows.setdefault(table, {}), key, row)
        self._changed.set()
        return self._next_group.stored

    def _add_newest(self, table: str, rows: _Rows, key: tuple[str, ...], row: _Row) -> None:
        """Adds a row, unless the rows have a newer one with its key."""
        version = self._tables[table].version
        present = rows.get(key)
        if present is None or not version or present[version] <= row[version]:
            rows[key] = row

    def problem(self) -> str:
        """Returns why no row can be inserted, in one line; "" if all is well. For any thread."""
        problems = [
            health.describe(self._waiting_rows(table)) for table, health in self._health.items()
        ]
        return "; ".join(problem for problem in problems if problem)

    def _waiting_rows(self, table: str) -> int:
        groups = (self._group, self._next_group)
        return sum(len(group.rows.get(table, ())) for group in groups if group is not None)

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
            rest = min(_REST_FACTOR * busy_seconds, _LONGEST_PAUSE)
            due = last_insert + max(self._linger_seconds, rest)
            await self._wait_until(due)
            # Rows that are put from here on belong to a new group, and so to a later insert.
            self._group = self._next_group
            self._next_group = None
            began = time.monotonic()
            if self._group is not None:
                busy_seconds = await self._complete(self._group)
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
                busy_seconds += await self._insert_rows(table, rows)
        except Exception as error:
            # The agents of these rows get no answer, and send them again.
            group.stored.set_exception(error)
            raise
        group.stored.set_result(None)
        return busy_seconds

    async def _insert_rows(self, table: str, rows: _Rows) -> float:
        """Inserts rows; returns for how many seconds the store was busy with them.

        Rows that the store rejects while it takes others are left out. While it takes none, the
        table may have been altered by hand: all are tried again, with those that came meanwhile.
        """
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        busy_seconds = 0.0
        while True:
            attempt = _Attempt()
            await self._insert_halves(table, rows, attempt)
            busy_seconds += attempt.busy_seconds
            if attempt.has_inserted or not attempt.rejected:
                self._health[table].succeeded()
                for row, reason in attempt.rejected.values():
                    _log_rejection(table, row, reason)
                return busy_seconds
            rows = {key: row for key, (row, _) in attempt.rejected.items()}
            reason = next(reason for _, reason in attempt.rejected.values())
            await self._pause(table, reason, backoff.next_pause())
            self._take_waiting(table, rows)

    async def _insert_halves(self, table: str, rows: _Rows, attempt: "_Attempt") -> None:
        """Inserts rows, and halves of them where they are rejected, until each bad row is alone."""
        try:
            attempt.busy_seconds += await self._insert_with_retries(table, list(rows.values()))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            if len(rows) == 1:  # no table can hold it
                _log_rejection(table, next(iter(rows.values())), str(error))
                return
        except StoreError as error:
            if len(rows) == 1:
                ((key, row),) = rows.items()
                attempt.rejected[key] = (row, str(error))
                return
        else:
            attempt.has_inserted = True
            return
        items = list(rows.items())
        middle = len(items) // 2
        await self._insert_halves(table, dict(items[:middle]), attempt)
        await self._insert_halves(table, dict(items[middle:]), attempt)

    def _take_waiting(self, table: str, rows: _Rows) -> None:
        """Adds the table's rows of the next group; they show whether the store takes others."""
        if self._next_group is None:
            return
        for key, row in self._next_group.rows.pop(table, {}).items():
            self._add_newest(table, rows, key, row)

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
                with self._health[table].attempt():
                    await loop.run_in_executor(self._threads, self._insert_once, table, columns)
                return time.monotonic() - began
            except StoreUnavailableError as error:
                failure = error
            if isinstance(failure, TableMissingError):
                await self._create_missing_tables(table)
            await self._pause(table, str(failure), backoff.next_pause())

    async def _create_missing_tables(self, table: str) -> None:
        log.warning("a table is missing; creating it again", table=table)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._create_tables)
        except StoreError as error:
            log.warning("cannot create the table", table=table, reason=str(error))

    async def _pause(self, table: str, reason: str, seconds: float) -> None:
        """Reports a failed insert and waits."""
        metrics.INSERT_RETRIES.labels(table).inc()
        self._health[table].failed(reason)
        log.warning("insert failed; retrying it", table=table, reason=reason, pause=seconds)
        await asyncio.sleep(seconds)

    def _insert_once(self, table: str, rows: pa.Table) -> None:
        self._store.insert(table, rows, uuid.uuid4().hex)
        try:
            self._after_insert()
        except StoreUnavailableError:
            raise
        except StoreError as error:
            metrics.RELOADS_FAILED.inc()
            log.error("cannot reload the known containers", reason=str(error))


def _log_rejection(table: str, row: Mapping[str, Any], reason: str) -> None:
    metrics.UPSERTS_REJECTED.labels(table).inc()
    log.error("store rejected a row", table=table, row=dict(row), reason=reason)
