"""What happens to a batch from its arrival until it waits for its insert."""

import asyncio
import time
from collections.abc import Mapping

import pyarrow as pa
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_UNKNOWN_PROBE,
    Batch,
    Hello,
    ProbeAnswer,
    Rejection,
    RejectionReason,
    Welcome,
)
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.schema import EventSchema

from infrasight_server import __version__, metrics
from infrasight_server.ingest.budget import Budget
from infrasight_server.ingest.enrichment import enrich
from infrasight_server.ingest.validation import schema_mismatch, validate
from infrasight_server.store.containers import Containers
from infrasight_server.store.writer import PendingBatch, TableWriter


class Intake:
    """Takes batches from all streams.

    Args:
        plugins: Whose enrichers are called.
        writers: One for every probe whose table is ready.
        rejected: Why the other probes have none.
        containers: Takes what is told of containers.
        budget: What all batches together may hold until they are stored.
        max_batch_bytes: The longest batch.
    """

    def __init__(
        self,
        plugins: PluginManager,
        writers: Mapping[str, TableWriter],
        rejected: Mapping[str, str],
        containers: Containers,
        budget: Budget,
        max_batch_bytes: int,
    ) -> None:
        self._plugins, self._writers, self._rejected = plugins, writers, rejected
        self._containers = containers
        self._budget, self._max_batch_bytes = budget, max_batch_bytes
        self._schemas: Mapping[str, EventSchema] = plugins.schemas()

    def welcome(self, hello: Hello) -> Welcome:
        """What is accepted of what an agent says it has."""
        answers = []
        for theirs in hello.probes:
            reason = self._unknown(theirs.probe)
            if not reason:
                reason = schema_mismatch(
                    self._schemas[theirs.probe], theirs.message_type, theirs.fingerprint
                )
            answers.append(ProbeAnswer(probe=theirs.probe, accepted=not reason, reason=reason))
        return Welcome(
            server_version=__version__, probes=answers, max_batch_bytes=self._max_batch_bytes
        )

    async def take(self, node: str, batch: Batch) -> asyncio.Future[bool] | Rejection:
        """Validates a batch, enriches it and queues it for its table.

        It waits while too many bytes are pending, and so does the stream that calls it.

        Returns:
            The future of `PendingBatch.stored`, or why the batch is rejected. One that brings an account
            alone has nothing to store.
        """
        if batch.containers:
            return await self._take_containers(node, batch)
        if batch.WhichOneof("body") is None and not batch.rows and batch.HasField("account"):
            return _nothing_to_store()
        known = batch.probe in self._writers
        label = batch.probe if known else "unknown"
        metrics.BATCHES_RECEIVED.labels(label).inc()
        metrics.ROWS_RECEIVED.labels(label).inc(batch.rows)
        if known:
            ready = await asyncio.to_thread(self._ready, node, batch)
        else:
            detail = f"batch {batch.batch_id!r}: {self._unknown(batch.probe)}"
            ready = Rejection(
                batch_id=batch.batch_id, reason=REJECTION_REASON_UNKNOWN_PROBE, detail=detail
            )
        if isinstance(ready, Rejection):
            count_refusal(label, batch, ready.reason)
            return ready
        size = ready.nbytes
        await self._budget.take(size)
        writer = self._writers[batch.probe]
        if (pending := writer.pending(node, batch.batch_id)) is not None:
            self._budget.give_back(size)
            return pending
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stored.add_done_callback(lambda _: self._budget.give_back(size))
        writer.submit(PendingBatch(node, batch.batch_id, ready, batch.retry, stored))
        return stored

    async def _take_containers(self, node: str, batch: Batch) -> asyncio.Future[bool] | Rejection:
        if rejection := self._containers.rejected(batch):
            count_refusal("containers", batch, rejection.reason)
            return rejection
        size = batch.ByteSize()
        await self._budget.take(size)
        stored = self._containers.put(node, batch)
        stored.add_done_callback(lambda _: self._budget.give_back(size))
        return stored

    def _ready(self, node: str, batch: Batch) -> pa.Table | Rejection:
        schema = self._schemas[batch.probe]
        table = validate(batch, schema, self._max_batch_bytes)
        if isinstance(table, Rejection):
            return table
        context = EnrichContext("server", batch.probe, node, batch.batch_id, time.time_ns())
        return enrich(table, schema.stored, context, self._plugins)

    def _unknown(self, probe: str) -> str:
        if probe in self._writers:
            return ""
        if probe in self._rejected:
            return f"probe {probe!r} has no table here: {self._rejected[probe]}"
        known = ", ".join(sorted(self._writers)) or "none"
        return f"this server has no probe {probe!r}; it knows: {known}; install the probe's package beside the server"


def _nothing_to_store() -> asyncio.Future[bool]:
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    done.set_result(False)
    return done


def count_refusal(probe: str, batch: Batch, reason: RejectionReason) -> None:
    """Counts a batch that will never be stored."""
    name = RejectionReason.Name(reason).removeprefix("REJECTION_REASON_").lower()
    metrics.BATCHES_REJECTED.labels(probe, name).inc()
    metrics.ROWS_REJECTED.labels(probe, name).inc(batch.rows)
