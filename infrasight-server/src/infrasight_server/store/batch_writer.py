"""Inserts the batches of one probe: merges them, inserts each exactly once, then reports it."""

import asyncio
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import pyarrow as pa
import structlog
from attrs import frozen
from infrasight_core.errors import StoreError, StoreUnavailableError
from infrasight_core.net.backoff import Backoff

from infrasight_server import metrics
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.outcome import StoreOutcome

log = structlog.get_logger(__name__)
_INSERT_BYTES = 128 << 20  # half of the size at which ClickHouse splits an insert into blocks
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


@frozen(eq=False)
class PendingBatch:
    """A batch that waits for its insert.

    Attributes:
        node: The node that sent it.
        batch_id: Its id, unique on that node.
        table: Its rows with all stored columns.
        retry: Whether the agent has sent it before, so that the store may have it already.
        stored: Done when the store has the batch; fails with a StoreError if the store rejects it.
    """

    node: str
    batch_id: str
    table: pa.Table
    retry: bool
    stored: asyncio.Future[StoreOutcome]

    @property
    def key(self) -> tuple[str, str]:
        """Node and batch id, which identify the batch."""
        return self.node, self.batch_id


class BatchWriter:
    """Inserts the batches of one probe.

    Args:
        probe: The probe's name; the table is `<probe>_events`.
        store: The store.
        threads: Runs the inserts.
        linger_seconds: The shortest time between the beginnings of two inserts, so that a busy
            probe's batches merge into large inserts.
        max_rows: With so many rows waiting, an insert begins at once and takes no further batch.
        on_stored: Called with the probe and each batch's rows after their insert.
    """

    def __init__(
        self,
        probe: str,
        store: Store,
        threads: Executor,
        linger_seconds: float,
        max_rows: int,
        on_stored: Callable[[str, pa.Table], None],
    ) -> None:
        self.probe = probe
        self._table = f"{probe}_events"
        self._store = store
        self._threads = threads
        self._linger_seconds = linger_seconds
        self._max_rows = max_rows
        self._on_stored = on_stored
        self._queue: deque[PendingBatch] = deque()
        self._queued_rows = 0
        self._last_insert = -math.inf
        self._pending: dict[tuple[str, str], asyncio.Future[StoreOutcome]] = {}
        self._changed = asyncio.Event()
        self._closing = False

    def pending(self, node: str, batch_id: str) -> asyncio.Future[StoreOutcome] | None:
        """Returns the future of a batch that waits for its insert; None if no such batch waits.

        An agent that reconnects sends the batches again that are still waiting here.
        """
        return self._pending.get((node, batch_id))

    def submit(self, batch: PendingBatch) -> None:
        """Queues a batch; its future reports the outcome."""
        self._queue.append(batch)
        self._queued_rows += batch.table.num_rows
        self._pending[batch.key] = batch.stored
        batch.stored.add_done_callback(lambda _: self._pending.pop(batch.key))
        self._changed.set()

    def close(self) -> None:
        """Makes `run` return as soon as every queued batch is stored."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Inserts the submitted batches until `close`."""
        while group := await self._next_group():
            await self._insert(group)

    async def _next_group(self) -> list[PendingBatch]:
        """Waits until an insert is due, and returns its batches; none when closed and empty."""
        while not self._queue:
            if self._closing:
                return []
            await self._wait_for_change(None)
        due = self._last_insert + self._linger_seconds
        while not self._closing and self._queued_rows < self._max_rows:
            remaining = due - time.monotonic()
            if remaining <= 0:
                break
            await self._wait_for_change(remaining)
        group = self._dequeue_group()
        self._last_insert = time.monotonic()
        return group

    def _dequeue_group(self) -> list[PendingBatch]:
        group: list[PendingBatch] = []
        rows = 0
        size = 0
        while self._queue:
            table = self._queue[0].table
            is_full = rows >= self._max_rows or size + table.nbytes > _INSERT_BYTES
            if group and is_full:
                break
            group.append(self._queue.popleft())
            rows += table.num_rows
            size += table.nbytes
        self._queued_rows -= rows
        return group

    async def _wait_for_change(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _insert(self, group: Sequence[PendingBatch], in_doubt: bool = False) -> None:
        """Inserts batches, retrying while the store is unavailable, and completes their futures.

        Args:
            group: The batches.
            in_doubt: Whether an earlier attempt may have stored some of them.
        """
        loop = asyncio.get_running_loop()
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        previous_attempt = ""
        while True:
            attempt = uuid.uuid4().hex
            try:
                already_stored = await loop.run_in_executor(
                    self._threads, self._insert_once, group, in_doubt, previous_attempt, attempt
                )
                break
            except StoreUnavailableError as error:
                in_doubt = True
                previous_attempt = attempt
                pause = backoff.next_pause()
                metrics.INSERT_RETRIES.labels(self.probe).inc()
                log.warning(
                    "store unavailable; retrying the insert",
                    table=self._table,
                    reason=str(error),
                    pause=pause,
                )
                await asyncio.sleep(pause)
            except StoreError as error:
                await self._reject(group, error)
                return
        for batch in group:
            if batch.retry and batch.key in already_stored:
                batch.stored.set_result(StoreOutcome.ALREADY_STORED)
                continue
            metrics.ROWS_STORED.labels(self.probe).inc(batch.table.num_rows)
            self._on_stored(self.probe, batch.table)
            batch.stored.set_result(StoreOutcome.INSERTED)

    async def _reject(self, group: Sequence[PendingBatch], error: StoreError) -> None:
        """Finds the batch that the store rejects: inserts the batches of the group one by one."""
        if len(group) == 1:
            group[0].stored.set_exception(error)
            return
        log.warning(
            "insert rejected; inserting its batches one by one",
            table=self._table,
            reason=str(error),
        )
        for batch in group:
            await self._insert([batch], in_doubt=True)

    def _insert_once(
        self, group: Sequence[PendingBatch], in_doubt: bool, previous_attempt: str, attempt: str
    ) -> set[tuple[str, str]]:
        """Makes one attempt, in a worker thread.

        Args:
            group: The batches.
            in_doubt: Whether any of them may be in the store, not only those marked `retry`.
            previous_attempt: The id of the attempt before, which the store may still be running;
                "" for none.
            attempt: The id of this attempt.

        Returns:
            The keys of the batches that were in the store already.
        """
        if previous_attempt and self._store.is_running(previous_attempt):
            raise StoreUnavailableError("it is still running the previous attempt")
        doubtful = [batch for batch in group if in_doubt or batch.retry]
        already_stored = self._find_stored(doubtful)
        tables = [
            batch.table
            for batch in group
            if batch.key not in already_stored and batch.table.num_rows
        ]
        if tables:
            with metrics.INSERT_SECONDS.labels(self.probe).time():
                self._store.insert(self._table, pa.concat_tables(tables), attempt)
        return already_stored

    def _find_stored(self, batches: Sequence[PendingBatch]) -> set[tuple[str, str]]:
        """Returns the keys of batches that are stored, and deletes those stored in part."""
        complete: set[tuple[str, str]] = set()
        if not batches:
            return complete
        nodes = {batch.node for batch in batches}
        batch_ids = {batch.batch_id for batch in batches}
        stored_rows = self._store.stored_rows(self._table, nodes, batch_ids)
        for batch in batches:
            if stored_rows.get(batch.key) == batch.table.num_rows:
                complete.add(batch.key)
            elif batch.key in stored_rows:
                self._store.delete_batch(self._table, batch.node, batch.batch_id)
        return complete
