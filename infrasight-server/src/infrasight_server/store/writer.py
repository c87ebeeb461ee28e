"""One table's inserts: batches are merged, inserted, and only then acknowledged, each exactly once."""

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

from infrasight_server import metrics
from infrasight_server.store.store import Store

log = structlog.get_logger(__name__)
_INSERT_BYTES = 128 << 20  # half of what ClickHouse would cut into several blocks
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@frozen(eq=False)
class PendingBatch:
    """A batch that waits for its insert.

    Attributes:
        node: Where it comes from.
        batch_id: Its name on that node.
        table: Its rows with all stored columns.
        retry: Whether it may be in the store already.
        stored: Done when the store has it (True: it had it already), or fails with the StoreError that refuses it for good.
    """

    node: str
    batch_id: str
    table: pa.Table
    retry: bool
    stored: asyncio.Future[bool]

    @property
    def key(self) -> tuple[str, str]:
        """Its identity."""
        return self.node, self.batch_id


class TableWriter:
    """Inserts the batches of one probe.

    Args:
        probe: Its name; the table is `<probe>_events`.
        store: Where they go.
        threads: What runs the inserts.
        linger_seconds: An insert begins so long after the one before, at the earliest, so that busy times make large ones.
        max_rows: With as many rows an insert begins at once, and takes no more batches.
        on_stored: Called with each batch's rows after their insert.
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
        self._store, self._threads = store, threads
        self._linger_seconds, self._max_rows = linger_seconds, max_rows
        self._on_stored = on_stored
        self._queue: deque[PendingBatch] = deque()
        self._queued_rows = 0
        self._last_insert = -math.inf
        self._pending: dict[tuple[str, str], asyncio.Future[bool]] = {}
        self._changed = asyncio.Event()
        self._closing = False

    def pending(self, node: str, batch_id: str) -> asyncio.Future[bool] | None:
        """The future of a batch that is here and not yet stored: an agent that reconnects sends it again."""
        return self._pending.get((node, batch_id))

    def submit(self, batch: PendingBatch) -> None:
        """Queues a batch; its future tells how it ended."""
        self._queue.append(batch)
        self._queued_rows += batch.table.num_rows
        self._pending[batch.key] = batch.stored
        batch.stored.add_done_callback(lambda _: self._pending.pop(batch.key))
        self._changed.set()

    def close(self) -> None:
        """Lets `run` return as soon as everything queued is stored."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Inserts what is submitted until `close`."""
        while group := await self._gathered():
            await self._insert(group)

    async def _gathered(self) -> list[PendingBatch]:
        """The batches of the next insert; none when closed and empty."""
        while not self._queue:
            if self._closing:
                return []
            await self._wait(None)
        until = self._last_insert + self._linger_seconds
        while (
            not self._closing
            and self._queued_rows < self._max_rows
            and (left := until - time.monotonic()) > 0
        ):
            await self._wait(left)
        group = [self._queue.popleft()]
        rows, size = group[0].table.num_rows, group[0].table.nbytes
        while (
            self._queue
            and rows < self._max_rows
            and size + self._queue[0].table.nbytes <= _INSERT_BYTES
        ):
            group.append(self._queue.popleft())
            rows, size = rows + group[-1].table.num_rows, size + group[-1].table.nbytes
        self._queued_rows -= rows
        self._last_insert = time.monotonic()
        return group

    async def _wait(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _insert(self, group: Sequence[PendingBatch], doubt: bool = False) -> None:
        """Inserts the batches, however long the store is away, and ends their futures.

        Args:
            group: The batches.
            doubt: Whether an attempt was made before that may have stored some of them.
        """
        attempt, pause = "", _FIRST_PAUSE
        while True:
            try:
                before, attempt = attempt, uuid.uuid4().hex
                run = asyncio.get_running_loop().run_in_executor
                already = await run(self._threads, self._insert_once, group, doubt, before, attempt)
                break
            except StoreUnavailableError as error:
                doubt = True
                metrics.INSERT_RETRIES.labels(self.probe).inc()
                log.warning(
                    "store is away; the insert is tried again",
                    table=self._table,
                    reason=str(error),
                    pause=pause,
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except StoreError as error:
                if len(group) == 1:
                    group[0].stored.set_exception(error)
                    return
                log.warning(
                    "insert rejected; its batches are tried one by one",
                    table=self._table,
                    reason=str(error),
                )
                for batch in group:
                    await self._insert([batch], doubt=True)
                return
        for batch in group:
            repeated = batch.retry and batch.key in already
            if not repeated:
                metrics.ROWS_STORED.labels(self.probe).inc(batch.table.num_rows)
                self._on_stored(self.probe, batch.table)
            batch.stored.set_result(repeated)

    def _insert_once(
        self, group: Sequence[PendingBatch], doubt: bool, before: str, attempt: str
    ) -> set[tuple[str, str]]:
        """One attempt, in a worker thread; returns which batches were in the store already.

        Args:
            group: The batches.
            doubt: Whether any of them may be in the store, not only those that say so.
            before: The attempt before, which may still be running in the store; "" for none.
            attempt: This attempt's id.
        """
        if before and self._store.is_running(before):
            raise StoreUnavailableError("it is still busy with the attempt before")
        in_doubt = [batch for batch in group if doubt or batch.retry]
        already: set[tuple[str, str]] = set()
        if in_doubt:
            there = self._store.stored_rows(
                self._table, {b.node for b in in_doubt}, {b.batch_id for b in in_doubt}
            )
            for batch in in_doubt:
                if there.get(batch.key) == batch.table.num_rows:
                    already.add(batch.key)
                elif batch.key in there:  # only some of its rows
                    self._store.delete_batch(self._table, batch.node, batch.batch_id)
        missing = [
            batch.table for batch in group if batch.key not in already and batch.table.num_rows
        ]
        if missing:
            with metrics.INSERT_SECONDS.labels(self.probe).time():
                self._store.insert(self._table, pa.concat_tables(missing), attempt)
        return already
