"""Accepts or rejects a batch: validates it, enriches it, and queues it for its table."""

import asyncio
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_UNKNOWN_PROBE,
    Batch,
    Hello,
    ProbeAnswer,
    Rejection,
    RejectionReason,
    Welcome,
)
from infrasight_core.net.rejection_reason import reason_name
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.schema import EventSchema

from infrasight_server import __version__, metrics
from infrasight_server.ingest.batch_preparer import BatchPreparer, Prepared, ReceivedBatch
from infrasight_server.ingest.memory_budget import MemoryBudget
from infrasight_server.ingest.validation import (
    measure_rows,
    reject,
    schema_mismatch,
    validate_containers,
    validate_head,
)
from infrasight_server.limits import MAX_ROWS, BatchLimits
from infrasight_server.store.batch_writer import BatchWriter
from infrasight_server.store.containers import ContainerTable
from infrasight_server.store.outcome import StoreOutcome
from infrasight_server.store.pending_batch import PendingBatch

_MEASURED_AT_ONCE_BYTES = 64 << 10
"""A batch up to this size is measured in the event loop: a thread takes longer to start."""
_OTHER_ACCOUNTS = ("dispatcher",)  # of what an agent does for all probes together


class IngestPipeline:
    """Accepts or rejects the batches of all streams.

    Args:
        plugins: The plugins; their `enrich` hooks are called.
        writers: The writers of the probes whose tables can be used.
        rejected_probes: The other probes, each with the reason.
        containers: Stores container updates.
        budget: Bounds the memory of batches that are not stored yet.
        limits: The bounds on each batch.
        store_folder: The folder of the embedded store; None without one.
    """

    def __init__(
        self,
        plugins: PluginManager,
        writers: Mapping[str, BatchWriter],
        rejected_probes: Mapping[str, str],
        containers: ContainerTable,
        budget: MemoryBudget,
        limits: BatchLimits,
        store_folder: Path | None = None,
    ) -> None:
        self._store_folder = b"" if store_folder is None else os.fsencode(store_folder)
        self._writers = writers
        self._rejected_probes = rejected_probes
        self._containers = containers
        self._budget = budget
        self._limits = limits
        self._account_probes = frozenset({*writers, *_OTHER_ACCOUNTS})
        self._schemas: Mapping[str, EventSchema] = plugins.schemas()
        self._preparer = BatchPreparer(plugins, limits, self._store)

    def welcome(self, hello: Hello) -> Welcome:
        """Returns which of an agent's probes the server accepts, and why not the others."""
        answers = []
        for announced in hello.probes:
            reason = self._unusable(announced.probe)
            if not reason:
                schema = self._schemas[announced.probe]
                reason = schema_mismatch(
                    schema,
                    announced.message_type,
                    announced.fingerprint,
                    announced.arrow_schema,
                )
            answers.append(ProbeAnswer(probe=announced.probe, accepted=not reason, reason=reason))
        return Welcome(
            server_version=__version__,
            probes=answers,
            max_batch_bytes=self._limits.max_batch_bytes,
            store_folder=self._store_folder,
        )

    async def accept(
        self, node: str, batch: Batch, stream_began: float
    ) -> asyncio.Future[StoreOutcome | Rejection] | Rejection:
        """Validates what stands beside a batch's rows, and queues the rest of the work.

        While pending batches use up the memory budget, it waits, and so does the calling stream.
        An account that must not be stored is removed from the batch.

        Args:
            node: The node that sent the batch.
            batch: The batch.
            stream_began: When the stream began on which it came, on the monotonic clock.

        Returns:
            A future that is done when the store has the batch or the server rejects it, and fails
            with a StoreError if the store rejects it. Or the reason why the server rejects it.
        """
        label = self._label(batch)
        rejection = validate_head(batch, self._account_probes, self._limits)
        if rejection is not None:
            batch.rows = min(batch.rows, MAX_ROWS)
            batch.ClearField("account")
            count_rejection(label, batch, rejection.reason)
            return rejection
        if batch.containers:
            return await self._accept_containers(node, batch)
        if batch.WhichOneof("body") is None and not batch.rows and batch.HasField("account"):
            return _nothing_to_store()
        metrics.BATCHES_RECEIVED.labels(label).inc()
        metrics.ROWS_RECEIVED.labels(label).inc(batch.rows)
        accepted = await self._accept_events(node, batch, stream_began)
        if isinstance(accepted, Rejection):
            count_rejection(label, batch, accepted.reason)
        return accepted

    async def _accept_events(
        self, node: str, batch: Batch, stream_began: float
    ) -> asyncio.Future[StoreOutcome | Rejection] | Rejection:
        if batch.probe not in self._writers:
            batch.ClearField("account")
            return self._unknown_probe(batch)
        needed = await self._measure(batch)
        if isinstance(needed, Rejection):
            return needed
        await self._budget.acquire(node, needed)
        outcome: asyncio.Future[StoreOutcome | Rejection]
        outcome = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(lambda _: self._budget.release(node, needed))
        self._preparer.submit(ReceivedBatch(node, batch, needed, stream_began, outcome))
        return outcome

    def _store(self, received: ReceivedBatch, prepared: Prepared) -> None:
        """Queues a batch for its table, or completes its outcome if it is rejected."""
        node = received.node
        batch = received.batch
        if isinstance(prepared, Rejection):
            count_rejection(batch.probe, batch, prepared.reason)
            received.outcome.set_result(prepared)
            return
        if isinstance(prepared, MemoryError):
            received.outcome.set_exception(prepared)
            return
        writer = self._writers[batch.probe]
        stored = writer.pending(node, batch.batch_id)
        if stored is None:
            stored = asyncio.get_running_loop().create_future()
            pending = PendingBatch(
                node=node,
                batch_id=batch.batch_id,
                rows=prepared.rows,
                size=received.size,
                days=prepared.days,
                retry=batch.retry,
                stream_began=received.stream_began,
                stored=stored,
            )
            writer.submit(pending)
        stored.add_done_callback(partial(_pass_on, received.outcome))

    async def _measure(self, batch: Batch) -> int | Rejection:
        if batch.ByteSize() <= _MEASURED_AT_ONCE_BYTES:
            return measure_rows(batch, self._limits)
        return await asyncio.to_thread(measure_rows, batch, self._limits)

    async def finish(self) -> None:
        """Waits until all accepted batches are queued for their tables, or rejected."""
        await self._preparer.close()

    async def _accept_containers(
        self, node: str, batch: Batch
    ) -> asyncio.Future[StoreOutcome | Rejection] | Rejection:
        rejection = await asyncio.to_thread(validate_containers, batch, self._limits)
        if rejection is not None:
            count_rejection("containers", batch, rejection.reason)
            return rejection
        size = batch.ByteSize()
        await self._budget.acquire(node, size)
        inserted = self._containers.upsert(node, batch)
        inserted.add_done_callback(lambda _: self._budget.release(node, size))
        return asyncio.ensure_future(_without_rows(inserted))

    def _label(self, batch: Batch) -> str:
        """Returns the value of the metrics' label `probe`, of which there are few."""
        if batch.containers:
            return "containers"
        return batch.probe if batch.probe in self._account_probes else "unknown"

    def _unknown_probe(self, batch: Batch) -> Rejection:
        return reject(batch, REJECTION_REASON_UNKNOWN_PROBE, self._unusable(batch.probe))

    def _unusable(self, probe: str) -> str:
        """Returns why the server cannot store a probe's events; "" if it can."""
        if probe in self._writers:
            return ""
        if probe in self._rejected_probes:
            return f"probe {probe!r} has no table here: {self._rejected_probes[probe]}"
        known = ", ".join(sorted(self._writers)) or "none"
        return (
            f"this server does not know probe {probe!r}; it knows: {known}; "
            "install the probe's package beside the server"
        )


def count_rejection(probe: str, batch: Batch, reason: RejectionReason) -> None:
    """Adds a rejected batch to the metrics."""
    metrics.BATCHES_REJECTED.labels(probe, reason_name(reason)).inc()
    metrics.ROWS_REJECTED.labels(probe, reason_name(reason)).inc(batch.rows)


def _pass_on(
    outcome: asyncio.Future[StoreOutcome | Rejection], stored: asyncio.Future[StoreOutcome]
) -> None:
    error = stored.exception()
    if outcome.done():
        return  # the stream is over, so no answer is needed
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(stored.result())


def _nothing_to_store() -> asyncio.Future[StoreOutcome | Rejection]:
    stored: asyncio.Future[StoreOutcome | Rejection] = asyncio.get_running_loop().create_future()
    stored.set_result(StoreOutcome.NO_ROWS)
    return stored


async def _without_rows(inserted: asyncio.Future[None]) -> StoreOutcome | Rejection:
    await asyncio.shield(inserted)
    return StoreOutcome.NO_ROWS
