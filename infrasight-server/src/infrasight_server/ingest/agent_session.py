"""Serves one agent's stream: reads its batches and answers each when the outcome is known."""

import asyncio
from collections.abc import AsyncIterator

import structlog
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_STORE_ERROR,
    Acknowledgement,
    Batch,
    Hello,
    Rejection,
    StreamRequest,
    StreamResponse,
)
from infrasight_core.errors import StoreError, TransportError
from infrasight_core.net.identity import Identity

from infrasight_server import metrics
from infrasight_server.ingest.pipeline import IngestPipeline, count_rejection
from infrasight_server.store.accounts import AccountTables
from infrasight_server.store.outcome import StoreOutcome

log = structlog.get_logger(__name__)


class AgentSession:
    """The server's side of one `EventService.Stream` call.

    Args:
        pipeline: Accepts or rejects the batches.
        accounts: Records the agent's accounts and the rejected batches.
        identity: The agent.
    """

    def __init__(
        self, pipeline: IngestPipeline, accounts: AccountTables, identity: Identity
    ) -> None:
        self._pipeline = pipeline
        self._accounts = accounts
        self._identity = identity
        self._responses: asyncio.Queue[StreamResponse | None] = asyncio.Queue()
        self._unanswered: set[asyncio.Task[None]] = set()
        self._node = ""
        self._reader: asyncio.Task[None] | None = None

    async def run(self, requests: AsyncIterator[StreamRequest]) -> AsyncIterator[StreamResponse]:
        """Reads the requests and yields the responses.

        It ends when the agent ends the stream or `stop` is called, after the last batch that was
        read has been answered.

        Raises:
            TransportError: The agent violates the protocol.
            AccessError: The agent may not write for the node that its hello names.
        """
        self._reader = asyncio.create_task(self._read(requests))
        self._reader.add_done_callback(lambda _: self._end_if_complete())
        try:
            while (response := await self._responses.get()) is not None:
                yield response
            error = None if self._reader.cancelled() else self._reader.exception()
            if error is not None:
                raise error
        finally:
            # Batches that have been read are stored in any case, and so are their accounts.
            self._reader.cancel()

    def stop(self) -> None:
        """Stops reading; every batch that was read is still answered."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: AsyncIterator[StreamRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "hello":
                    self._welcome(request.hello)
                case "batch" if self._node:
                    await self._accept(request.batch)
                case _:
                    raise TransportError(
                        "a stream must begin with hello, which names the node; batches follow"
                    )

    def _welcome(self, hello: Hello) -> None:
        if not hello.node:
            raise TransportError("hello must name the node")
        self._identity.require_node(hello.node)
        if self._node not in ("", hello.node):
            raise TransportError(
                f"this stream belongs to node {self._node!r}; node {hello.node!r} needs its own"
            )
        self._node = hello.node
        welcome = self._pipeline.welcome(hello)
        for answer in welcome.probes:
            if not answer.accepted:
                log.warning(
                    "probe rejected", node=self._node, probe=answer.probe, reason=answer.reason
                )
        log.info(
            "agent connected",
            node=self._node,
            version=hello.agent_version,
            probes=[announced.probe for announced in hello.probes],
        )
        self._responses.put_nowait(StreamResponse(welcome=welcome))

    async def _accept(self, batch: Batch) -> None:
        accepted = await self._pipeline.accept(self._node, batch)
        # The answer may take long; only the batch's numbers are needed for it.
        batch.ClearField("body")
        batch.ClearField("containers")
        task = asyncio.create_task(self._answer(batch, accepted))
        self._unanswered.add(task)
        task.add_done_callback(self._on_answered)

    async def _answer(
        self, batch: Batch, accepted: asyncio.Future[StoreOutcome] | Rejection
    ) -> None:
        """Waits until the batch and its account are stored, then acknowledges or rejects it."""
        if isinstance(accepted, Rejection):
            rejection: Rejection | None = accepted
        else:
            rejection = await self._wait_stored(batch, accepted)
        await self._accounts.record(self._node, batch, rejection)
        if rejection is None:
            acknowledgement = Acknowledgement(batch_id=batch.batch_id)
            self._responses.put_nowait(StreamResponse(acknowledgement=acknowledgement))
        else:
            log.warning(
                "batch rejected", node=self._node, probe=batch.probe, reason=rejection.detail
            )
            self._responses.put_nowait(StreamResponse(rejection=rejection))

    async def _wait_stored(
        self, batch: Batch, stored: asyncio.Future[StoreOutcome]
    ) -> Rejection | None:
        """Waits until the store has the batch; returns a rejection if the store rejects it."""
        try:
            outcome = await asyncio.shield(stored)  # another stream may wait for the same insert
        except StoreError as error:
            count_rejection(batch.probe, batch, REJECTION_REASON_STORE_ERROR)
            return Rejection(
                batch_id=batch.batch_id,
                reason=REJECTION_REASON_STORE_ERROR,
                detail=f"batch {batch.batch_id!r} of {batch.probe}: the store rejects it: {error}",
            )
        if batch.rows and outcome is StoreOutcome.INSERTED:
            metrics.BATCHES_STORED.labels(batch.probe).inc()
        elif batch.rows and outcome is StoreOutcome.ALREADY_STORED:
            metrics.BATCHES_REPEATED.labels(batch.probe).inc()
        return None

    def _on_answered(self, task: asyncio.Task[None]) -> None:
        self._unanswered.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error(
                "cannot answer a batch; its agent sends it again",
                node=self._node,
                error=repr(error),
            )
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if self._reader is not None and self._reader.done() and not self._unanswered:
            self._responses.put_nowait(None)
