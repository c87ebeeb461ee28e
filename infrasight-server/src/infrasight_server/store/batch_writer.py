"""Inserts the batches of one probe: merges them, inserts each exactly once, then reports it.

Nodes take turns, and a batch that the store rejects affects no other. Nothing here deletes a row.
"""

import asyncio
import math
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
import pyarrow as pa
import structlog
from attrs import evolve
from infrasight_core.errors import BatchConflictError, StoreError, StoreUnavailableError
from infrasight_core.net.backoff import Backoff
from infrasight_core.plugin.arrays import numbers

from infrasight_server import metrics
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.outcome import StoreOutcome
from infrasight_server.store.pending_batch import PendingBatch
from infrasight_server.store.stored_rows import Found, find_stored

log = structlog.get_logger(__name__)
_INSERT_BYTES = 128 << 20  # half of the size at which ClickHouse splits an insert into blocks
_MAX_DAYS_AT_ONCE = 16  # each day is a partition, and each partition takes time
_ALONE_SECONDS = 300.0
_REMEMBERED_NODES = 10_000
_MOST_FAILURES = 5
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


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
        on_stored: Callable[[str, pa.RecordBatch], None],
    ) -> None:
        self.probe = probe
        self._table = f"{probe}_events"
        self._store = store
        self._threads = threads
        self._linger_seconds = linger_seconds
        self._max_rows = max_rows
        self._on_stored = on_stored
        # By node; the node whose turn it is comes first.
        self._queues: OrderedDict[str, deque[PendingBatch]] = OrderedDict()
        self._rejected_at: OrderedDict[str, float] = OrderedDict()  # by node
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
        if self._was_rejected(batch.node):
            # It may wait long for its separate insert, and must not hold the memory of others.
            batch = evolve(batch, rows=batch.rows.take(numbers(np.arange(batch.rows.num_rows))))
        self._queues.setdefault(batch.node, deque()).append(batch)
        self._queued_rows += batch.rows.num_rows
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
        while not self._queues:
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
        """Removes the batches of the next insert from the queues, one of each node in turn."""
        group: list[PendingBatch] = []
        days: frozenset[int] = frozenset()
        rows = 0
        size = 0
        waiting = deque(self._queues)
        while waiting and rows < self._max_rows:
            node = waiting.popleft()
            batch = self._queues[node][0]
            is_alone = self._was_rejected(node)
            if group and (is_alone or len(days | batch.days) > _MAX_DAYS_AT_ONCE):
                continue  # its turn comes with the next insert
            if group and size + batch.size > _INSERT_BYTES:
                break
            self._pop(node)
            group.append(batch)
            days |= batch.days
            rows += batch.rows.num_rows
            size += batch.size
            if is_alone:
                break
            if node in self._queues:
                waiting.append(node)
        self._queued_rows -= rows
        return group

    def _pop(self, node: str) -> None:
        """Removes a node's first batch; the other nodes' turns come before its next."""
        queue = self._queues[node]
        queue.popleft()
        self._queues.move_to_end(node)
        if not queue:
            del self._queues[node]

    def _was_rejected(self, node: str) -> bool:
        """Returns whether the store rejected a batch of the node within the last minutes.

        Its batches are then inserted one by one, so that no other has to be inserted twice.
        """
        rejected_at = self._rejected_at.get(node)
        return rejected_at is not None and time.monotonic() - rejected_at < _ALONE_SECONDS

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
        failures = 0
        while True:
            attempt = uuid.uuid4().hex
            try:
                found = await loop.run_in_executor(
                    self._threads, self._insert_once, group, in_doubt, previous_attempt, attempt
                )
                break
            except StoreUnavailableError as error:
                reason = str(error)
            except StoreError as error:
                await self._reject(group, error)
                return
            except Exception as error:
                failures += 1
                metrics.TASK_FAILURES.labels(self._table).inc()
                log.exception("insert failed unexpectedly", table=self._table)
                if failures == _MOST_FAILURES:
                    await self._reject(group, StoreError(f"the server failed: {error!r}"))
                    return
                reason = repr(error)
            in_doubt = True
            previous_attempt = attempt
            pause = backoff.next_pause()
            metrics.INSERT_RETRIES.labels(self.probe).inc()
            log.warning(
                "store unavailable; retrying the insert",
                table=self._table,
                reason=reason,
                pause=pause,
            )
            await asyncio.sleep(pause)
        for batch in group:
            if batch.key in found.conflicts:
                self._report_conflict(batch)
            elif batch.retry and batch.key in found.complete:
                batch.stored.set_result(StoreOutcome.ALREADY_STORED)
            else:
                metrics.ROWS_STORED.labels(self.probe).inc(batch.rows.num_rows)
                self._on_stored(self.probe, batch.rows)
                batch.stored.set_result(StoreOutcome.INSERTED)

    async def _reject(self, group: Sequence[PendingBatch], error: StoreError) -> None:
        """Finds the batch that the store rejects: inserts the batches of the group one by one."""
        if len(group) == 1:
            self._remember_rejection(group[0].node)
            group[0].stored.set_exception(error)
            return
        log.warning(
            "insert rejected; inserting its batches one by one",
            table=self._table,
            reason=str(error),
        )
        for batch in group:
            await self._insert([batch], in_doubt=True)

    def _remember_rejection(self, node: str) -> None:
        self._rejected_at[node] = time.monotonic()
        self._rejected_at.move_to_end(node)
        if len(self._rejected_at) > _REMEMBERED_NODES:
            self._rejected_at.popitem(last=False)

    def _report_conflict(self, batch: PendingBatch) -> None:
        metrics.BATCHES_CONFLICTING.labels(self.probe).inc()
        log.error(
            "a batch was sent again with other rows than those stored; the stored rows stay",
            node=batch.node,
            probe=self.probe,
            batch_id=batch.batch_id,
        )
        batch.stored.set_exception(
            BatchConflictError("its id is stored already, with other rows; those stay")
        )

    def _insert_once(
        self, group: Sequence[PendingBatch], in_doubt: bool, previous_attempt: str, attempt: str
    ) -> Found:
        """Makes one attempt, in a worker thread.

        Args:
            group: The batches.
            in_doubt: Whether any of them may be in the store, not only those marked `retry`.
            previous_attempt: The id of the attempt before, which the store may still be running;
                "" for none.
            attempt: The id of this attempt.

        Returns:
            What the store had already.
        """
        if previous_attempt and self._store.is_running(previous_attempt):
            raise StoreUnavailableError("it is still running the previous attempt")
        found = find_stored(
            self._store, self._table, [batch for batch in group if in_doubt or batch.retry]
        )
        stored = found.complete | found.conflicts
        parts = [
            found.missing.get(batch.key, batch.rows) for batch in group if batch.key not in stored
        ]
        if any(part.num_rows for part in parts):
            # In one piece: the store's cost for each piece of few rows exceeds that of its rows.
            rows = pa.Table.from_batches(parts).combine_chunks()
            with metrics.INSERT_SECONDS.labels(self.probe).time():
                self._store.insert(self._table, rows, attempt)
        return found
