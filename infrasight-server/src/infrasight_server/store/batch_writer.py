"""Inserts the batches of one probe: merges them, inserts each exactly once, then reports it.

Whatever the store answers, a batch waits until the store has it. Only a batch that the store
rejects while it takes others is rejected. Nothing here deletes a row.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Executor
from typing import TypeVar

import pyarrow as pa
import structlog
from attrs import define, evolve, field, frozen
from infrasight_core.errors import (
    BatchConflictError,
    ClaimsChangedError,
    StoreError,
    StoreUnavailableError,
    TableMissingError,
)
from infrasight_core.net.backoff import Backoff

from infrasight_server import metrics
from infrasight_server.store.batch_queue import BatchQueue
from infrasight_server.store.claims import Claims
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.node_streams import NodeStreams
from infrasight_server.store.outcome import StoreOutcome
from infrasight_server.store.pending_batch import PendingBatch
from infrasight_server.store.stored_rows import Found, find_stored
from infrasight_server.store.table_health import TableHealth

log = structlog.get_logger(__name__)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_SUSPECT_SECONDS = 30.0
_MOVED = "another server receives the node's batches"
_Result = TypeVar("_Result")


@define
class _Progress:
    """How far the inserts of some batches have come.

    Attributes:
        in_doubt: Whether an insert of unknown outcome may be running or begin.
        claimed: The nodes that have been claimed for these batches, some of which may be stored.
    """

    in_doubt: bool
    claimed: set[str] = field(factory=set)


@frozen(eq=False)
class _Suspect:
    """A batch whose insert failed although the store answered.

    Attributes:
        batch: The batch.
        inserts: The number of inserts that had succeeded when its insert failed.
        due: When it is tried again although no further insert has succeeded.
    """

    batch: PendingBatch
    inserts: int
    due: float


class BatchWriter:
    """Inserts the batches of one probe.

    Args:
        probe: The probe's name; the table is `<probe>_events`.
        store: The store.
        threads: Runs the inserts.
        linger_seconds: The shortest time between the beginnings of two inserts, so that a busy
            probe's batches merge into large inserts.
        max_rows: With so many rows waiting, an insert begins at once and takes no further batch.
        publish: Called with the probe and each batch's rows: when it arrives, or, if the store may
            have it already, after its insert.
        create_tables: Called in a worker thread when the table is missing; raises StoreError.
    """

    def __init__(
        self,
        probe: str,
        store: Store,
        threads: Executor,
        linger_seconds: float,
        max_rows: int,
        publish: Callable[[str, pa.RecordBatch], None],
        create_tables: Callable[[], object],
    ) -> None:
        self.probe = probe
        self._table = f"{probe}_events"
        self._store = store
        self._threads = threads
        self._linger_seconds = linger_seconds
        self._publish = publish
        self._create_tables = create_tables
        self._queue = BatchQueue(max_rows)
        self._health = TableHealth(self._table)
        self._claims = Claims(probe, store)
        self._streams = NodeStreams()
        self._last_insert = -math.inf
        self._inserts = 0
        self._pending: dict[tuple[str, str], PendingBatch] = {}
        self._suspects: list[_Suspect] = []
        self._changed = asyncio.Event()
        self._closing = False

    def pending(self, node: str, batch_id: str) -> asyncio.Future[StoreOutcome] | None:
        """Returns the future of a batch that waits for its insert; None if no such batch waits.

        An agent that reconnects sends the batches again that are still waiting here.
        """
        batch = self._pending.get((node, batch_id))
        return None if batch is None else batch.stored

    def submit(self, batch: PendingBatch) -> None:
        """Queues a batch; its future reports the outcome."""
        if self._streams.is_moved(batch):
            batch.stored.set_exception(StoreUnavailableError(_MOVED))
            return
        if self._streams.is_superseded(batch):
            batch = evolve(batch, retry=True)  # it may have come on the newer stream already
        self._pending[batch.key] = batch
        batch.stored.add_done_callback(lambda _: self._pending.pop(batch.key))
        self._queue.put(batch)
        self._changed.set()
        if not batch.retry:
            self._show(batch)

    def close(self) -> None:
        """Makes `run` return as soon as every queued batch is stored."""
        self._closing = True
        self._changed.set()

    def problem(self) -> str:
        """Returns why no row can be inserted, in one line; "" if all is well. For any thread."""
        return self._health.describe(sum(b.rows.num_rows for b in tuple(self._pending.values())))

    async def run(self) -> None:
        """Inserts the submitted batches until `close`; may be called again when it has failed."""
        while not (self._closing and self._queue.is_empty):
            await self._try_suspects()
            group = await self._next_group()
            try:
                await self._insert(group)
            except Exception:
                for batch in group:
                    if not batch.stored.done():
                        self._queue.put(evolve(batch, retry=True))
                raise
        for suspect in self._suspects:
            if suspect.batch.stored.done():
                continue
            suspect.batch.stored.set_exception(StoreUnavailableError("the server stops"))

    async def _next_group(self) -> list[PendingBatch]:
        """Waits until an insert is due, and returns its batches.

        Returns:
            The batches; none when there is nothing to insert, or when a suspect is due.
        """
        if self._queue.is_empty and not self._closing:
            await self._wait_for_change(min((s.due for s in self._suspects), default=math.inf))
        due = self._last_insert + self._linger_seconds
        while not self._queue.is_empty and not self._closing and not self._queue.is_full:
            if time.monotonic() >= due:
                break
            await self._wait_for_change(due)
        group = self._queue.take_group()
        if group:
            self._last_insert = time.monotonic()
        return group

    async def _wait_for_change(self, until: float) -> None:
        """Waits for a batch or for the end, at most until a moment; infinity for no such moment."""
        self._changed.clear()
        seconds = None if math.isinf(until) else until - time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _insert(self, group: Sequence[PendingBatch], in_doubt: bool = False) -> None:
        """Inserts batches, retrying while the store is unavailable, and completes their futures.

        If the store rejects them, or something unexpected happens, they are inserted one by one; a
        batch that fails alone becomes a suspect.

        Args:
            group: The batches; nothing happens if there is none.
            in_doubt: Whether an earlier attempt may have stored some of them.
        """
        if not group:
            return
        try:
            found = await self._insert_with_retries(group, in_doubt)
        except Exception as error:  # noqa: BLE001 - it is reported, and the batches wait
            self._log_failure(group, error)
            if len(group) > 1:
                for batch in group:
                    await self._insert([batch], in_doubt=True)
            elif not group[0].stored.done():
                self._suspect(group[0])
            return
        self._health.succeeded()
        for batch in group:
            self._complete(batch, found)

    async def _insert_with_retries(
        self, group: Sequence[PendingBatch], in_doubt: bool = False
    ) -> Found:
        """Inserts batches, retrying while the store is unavailable.

        Batches of nodes that another server has claimed are given up: their futures fail.

        Returns:
            What the store had already.

        Raises:
            StoreError: The store rejects them.
        """
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        progress = _Progress(in_doubt)
        while True:
            waiting = [batch for batch in group if not batch.stored.done()]
            try:
                with self._health.attempt():
                    return await self._in_thread(self._insert_once, waiting, progress)
            except ClaimsChangedError:
                continue
            except StoreUnavailableError as error:
                failure = error
            finally:
                self._give_up_moved()
            progress.in_doubt = True
            pause = backoff.next_pause()
            metrics.INSERT_RETRIES.labels(self.probe).inc()
            self._health.failed(str(failure))
            log.warning(
                "store unavailable; retrying the insert",
                table=self._table,
                reason=str(failure),
                pause=pause,
            )
            if isinstance(failure, TableMissingError):
                await self._create_missing_tables()
            await asyncio.sleep(pause)

    def _give_up_moved(self) -> None:
        """Gives up the batches of nodes that another server has claimed; it has them too."""
        for node in self._claims.take_moved():
            log.info("another server receives a node's batches", node=node, table=self._table)
            self._streams.note_moved(node, time.monotonic())
            self._queue.remove(node)
            for batch in [b for b in self._pending.values() if b.node == node]:
                if not batch.stored.done():
                    batch.stored.set_exception(StoreUnavailableError(_MOVED))

    async def _create_missing_tables(self) -> None:
        log.warning("a table is missing; creating it again", table=self._table)
        try:
            await self._in_thread(self._create_tables)
        except StoreError as error:
            log.warning("cannot create the table", table=self._table, reason=str(error))

    def _in_thread(
        self, function: Callable[..., _Result], *arguments: object
    ) -> asyncio.Future[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _complete(self, batch: PendingBatch, found: Found) -> None:
        if batch.stored.done():  # given up
            return
        if batch.key in found.conflicts:
            self._report_conflict(batch)
        elif batch.retry and batch.key in found.complete:
            batch.stored.set_result(StoreOutcome.ALREADY_STORED)
        else:
            metrics.ROWS_STORED.labels(self.probe).inc(batch.rows.num_rows)
            if batch.retry:
                self._show(batch)
            batch.stored.set_result(StoreOutcome.INSERTED)

    def _show(self, batch: PendingBatch) -> None:
        """Publishes a batch's rows. A failure must cost no answer."""
        try:
            self._publish(self.probe, batch.rows)
        except Exception:
            metrics.TASK_FAILURES.labels(self._table).inc()
            log.exception("cannot show a batch's rows to watchers", table=self._table)

    def _log_failure(self, group: Sequence[PendingBatch], error: Exception) -> None:
        is_expected = isinstance(error, StoreError)
        if not is_expected:
            metrics.TASK_FAILURES.labels(self._table).inc()
        self._health.failed(str(error) if is_expected else repr(error))
        log.warning(
            "insert rejected",
            table=self._table,
            batches=len(group),
            first_node=group[0].node,
            first_batch=group[0].batch_id,
            reason=repr(error),
            exc_info=None if is_expected else error,
        )

    def _suspect(self, batch: PendingBatch) -> None:
        due = time.monotonic() + _SUSPECT_SECONDS
        self._suspects.append(_Suspect(batch, self._inserts, due))

    async def _try_suspects(self) -> None:
        """Tries those again that failed before another insert succeeded, or whose time has come.

        A batch that fails again although the store takes others is at fault itself, and rejected.
        While the store takes no batch, none is at fault: a table may have been altered by hand.
        """
        now = time.monotonic()
        due = [s for s in self._suspects if s.due <= now or s.inserts < self._inserts]
        for suspect in due:
            self._suspects.remove(suspect)
            batch = suspect.batch
            if batch.stored.done():  # given up
                continue
            if suspect.inserts == self._inserts:
                await self._insert([batch], in_doubt=True)
                continue
            try:
                found = await self._insert_with_retries([batch], in_doubt=True)
            except Exception as error:  # noqa: BLE001 - it is logged, and the agent learns of it
                self._log_failure([batch], error)
                self._reject(batch, error)
            else:
                self._complete(batch, found)
            self._health.succeeded()

    def _reject(self, batch: PendingBatch, error: Exception) -> None:
        self._queue.separate(batch.node)
        if not isinstance(error, StoreError):
            error = StoreError(f"the server failed: {error!r}")
        batch.stored.set_exception(error)

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

    def _insert_once(self, group: Sequence[PendingBatch], progress: _Progress) -> Found:
        """Makes one attempt, in a worker thread.

        Args:
            group: The batches.
            progress: What earlier attempts have come to; it is updated.

        Returns:
            What the store had already.

        Raises:
            ClaimsChangedError: Another server has claimed one of the nodes.
        """
        nodes = {batch.node for batch in group}
        to_claim = nodes if progress.in_doubt else self._claims.unclaimed(nodes)
        if to_claim:
            progress.claimed |= to_claim
            self._claims.claim(_oldest_streams(group, to_claim))
            progress.in_doubt = False
        if self._claims.unclaimed(nodes):
            raise ClaimsChangedError("another server has claimed a node")
        doubtful = [batch for batch in group if batch.retry or batch.node in progress.claimed]
        found = find_stored(self._store, self._table, doubtful)
        stored = found.complete | found.conflicts
        parts = [
            found.missing.get(batch.key, batch.rows) for batch in group if batch.key not in stored
        ]
        if any(part.num_rows for part in parts):
            # In one piece: the store's cost for each piece of few rows exceeds that of its rows.
            rows = pa.Table.from_batches(parts).combine_chunks()
            self._insert_rows(rows)
        return found

    def _insert_rows(self, rows: pa.Table) -> None:
        attempt = uuid.uuid4().hex
        try:
            with metrics.INSERT_SECONDS.labels(self.probe).time():
                self._store.insert(self._table, rows, attempt, self._claims.condition)
        except ClaimsChangedError:
            self._claims.refresh()
            raise
        self._inserts += 1


def _oldest_streams(group: Sequence[PendingBatch], nodes: Set[str]) -> dict[str, float]:
    """Returns when the oldest stream of each node began on which one of the batches came."""
    began: dict[str, float] = {}
    for batch in group:
        if batch.node in nodes:
            began[batch.node] = min(batch.stream_began, began.get(batch.node, math.inf))
    return began
