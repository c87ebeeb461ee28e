"""Validates and enriches batches, many at once.

Fleets send small batches, whose cost is that of the calls for each of their columns and not that of
their rows. The batches of a short time are therefore merged, and each column is handled once.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import structlog
from attrs import frozen
from infrasight.v1.stream_pb2 import REJECTION_REASON_MALFORMED, Batch, Rejection
from infrasight_core.errors import SchemaError
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.schema import EventSchema

from infrasight_server.ingest.enrichment import Origin, enrich
from infrasight_server.ingest.validation import days_of, decode_events, merge_events, reject
from infrasight_server.limits import BatchLimits
from infrasight_server.store.outcome import StoreOutcome

log = structlog.get_logger(__name__)
_LINGER_SECONDS = 0.1
"""The shortest time between two merges of a probe; the insert that follows waits longer."""
_MERGED_BYTES = 1 << 20
_MERGED_BATCHES = 64


@frozen
class PreparedRows:
    """The rows of a batch, ready for its table.

    Attributes:
        rows: The rows with all stored columns: a part of the rows of all merged batches.
        days: The days since the epoch that the events lie in.
    """

    rows: pa.RecordBatch
    days: frozenset[int]


@frozen(eq=False)
class ReceivedBatch:
    """A batch that is to be prepared.

    Attributes:
        node: The node that sent it.
        batch: A batch of a known probe; `validate_head` and `measure_rows` accept it.
        size: The bytes that its rows need in memory.
        stream_began: When the stream began on which it came, on the monotonic clock.
        outcome: The answer to the agent: done when the store has the batch or the server rejects
            it, fails if the agent has to send it again or with a StoreError.
    """

    node: str
    batch: Batch
    size: int
    stream_began: float
    outcome: asyncio.Future[StoreOutcome | Rejection]


@frozen
class _Decoded:
    received: ReceivedBatch
    table: pa.Table


Prepared = PreparedRows | Rejection | MemoryError


class BatchPreparer:
    """Validates and enriches the batches of all streams, and passes them on in their order.

    Args:
        plugins: The plugins; their `enrich` hooks are called.
        limits: The bounds on each batch.
        on_prepared: Called with each batch and its rows, the reason why it is rejected, or a
            MemoryError if there is not enough memory for it.
    """

    def __init__(
        self,
        plugins: PluginManager,
        limits: BatchLimits,
        on_prepared: Callable[[ReceivedBatch, Prepared], None],
    ) -> None:
        self._plugins = plugins
        self._limits = limits
        self._on_prepared = on_prepared
        self._schemas: Mapping[str, EventSchema] = plugins.schemas()
        # By probe, then by node; the node whose turn it is comes first.
        self._waiting: dict[str, OrderedDict[str, deque[ReceivedBatch]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by probe, while batches wait
        self._closing = asyncio.Event()

    def submit(self, received: ReceivedBatch) -> None:
        """Queues a batch."""
        probe = received.batch.probe
        queues = self._waiting.setdefault(probe, OrderedDict())
        queues.setdefault(received.node, deque()).append(received)
        if probe not in self._tasks:
            self._tasks[probe] = asyncio.create_task(self._prepare_waiting(probe))

    async def close(self) -> None:
        """Waits until every queued batch is prepared; no further one may be submitted."""
        self._closing.set()
        await asyncio.gather(*self._tasks.values())

    async def _prepare_waiting(self, probe: str) -> None:
        """Prepares the batches of a probe until none waits after the time to linger."""
        waiting = self._waiting[probe]
        try:
            while waiting:
                began = time.monotonic()
                while waiting:
                    await self._prepare_group(probe, _next_group(waiting))
                await self._linger(began + _LINGER_SECONDS)
        finally:
            del self._tasks[probe]

    async def _linger(self, due: float) -> None:
        try:
            async with asyncio.timeout(due - time.monotonic()):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _prepare_group(self, probe: str, group: Sequence[ReceivedBatch]) -> None:
        try:
            size = sum(received.size for received in group)
            if size > _MERGED_BYTES or self._plugins.enrichers("server"):
                outcomes = await asyncio.to_thread(self._prepare, probe, group)
            else:  # faster than it takes to hand it to a thread
                outcomes = self._prepare(probe, group)
                await asyncio.sleep(0)
            for received, prepared in zip(group, outcomes, strict=True):
                self._on_prepared(received, prepared)
        except Exception as error:  # noqa: BLE001 - each session logs it; the agents send again
            for received in group:
                if not received.outcome.done():
                    received.outcome.set_exception(error)

    def _prepare(self, probe: str, group: Sequence[ReceivedBatch]) -> list[Prepared]:
        decoded = [self._decode(received) for received in group]
        rows = [
            _Decoded(received, table)
            for received, table in zip(group, decoded, strict=True)
            if isinstance(table, pa.Table)
        ]
        merged = iter(self._merge(probe, rows))
        return [next(merged) if isinstance(table, pa.Table) else table for table in decoded]

    def _decode(self, received: ReceivedBatch) -> pa.Table | Rejection | MemoryError:
        try:
            return decode_events(received.batch, self._schemas[received.batch.probe])
        except Exception as error:  # noqa: BLE001 - it must cost no other batch
            return _failure(received, error)

    def _merge(self, probe: str, decoded: Sequence[_Decoded]) -> list[Prepared]:
        """Validates and enriches several batches at once; finds those that fail by halves."""
        if not decoded:
            return []
        try:
            return self._merge_valid(probe, decoded)
        except Exception as error:  # noqa: BLE001 - it must cost no other batch
            if len(decoded) == 1:
                return [_failure(decoded[0].received, error)]
        middle = len(decoded) // 2
        return [*self._merge(probe, decoded[:middle]), *self._merge(probe, decoded[middle:])]

    def _merge_valid(self, probe: str, decoded: Sequence[_Decoded]) -> list[Prepared]:
        """Raises what any of the batches causes."""
        schema = self._schemas[probe]
        now = time.time_ns()
        origins = []
        for part in decoded:
            received = part.received
            batch_id = received.batch.batch_id
            context = EnrichContext("server", probe, received.node, batch_id, now)
            origins.append(Origin(context, part.table.num_rows))
        merged = merge_events([part.table for part in decoded], schema, self._limits)
        rows = enrich(merged, schema.stored, origins, self._plugins)
        days = days_of(rows)
        prepared: list[Prepared] = []
        first = 0
        for origin in origins:
            own_rows = rows.slice(first, origin.rows)
            own_days = days if len(days) == 1 else days_of(own_rows)
            prepared.append(PreparedRows(own_rows, own_days))
            first += origin.rows
        return prepared


def _next_group(waiting: OrderedDict[str, deque[ReceivedBatch]]) -> list[ReceivedBatch]:
    """Removes the batches to merge next from the queues, one of each node in turn."""
    group: list[ReceivedBatch] = []
    size = 0
    while waiting and len(group) < _MERGED_BATCHES:
        node, queue = next(iter(waiting.items()))
        if group and size + queue[0].size > _MERGED_BYTES:
            break
        group.append(queue.popleft())
        size += group[-1].size
        waiting.move_to_end(node)
        if not queue:
            del waiting[node]
    return group


def _failure(received: ReceivedBatch, error: Exception) -> Rejection | MemoryError:
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, SchemaError):
        return reject(received.batch, REJECTION_REASON_MALFORMED, str(error))
    log.error(
        "cannot validate a batch", node=received.node, probe=received.batch.probe, exc_info=error
    )
    return reject(received.batch, REJECTION_REASON_MALFORMED, f"the server failed: {error!r}")
