"""One agent's stream: reads what comes, answers each batch when its fate is known."""

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

from infrasight_server import metrics
from infrasight_server.ingest.intake import Intake, count_refusal
from infrasight_server.store.accounts import Accounts

log = structlog.get_logger(__name__)


class AgentSession:
    """The server's side of `EventService.Stream`."""

    def __init__(self, intake: Intake, accounts: Accounts) -> None:
        self._intake, self._accounts = intake, accounts
        self._answers: asyncio.Queue[StreamResponse | None] = asyncio.Queue()
        self._unanswered: set[asyncio.Task[None]] = set()
        self._node = ""
        self._reading: asyncio.Task[None] | None = None

    async def answers(
        self, requests: AsyncIterator[StreamRequest]
    ) -> AsyncIterator[StreamResponse]:
        """Reads the requests and yields their answers, until the agent ends or `stop`, and the last batch is answered.

        Raises:
            TransportError: The agent broke the protocol.
        """
        self._reading = asyncio.create_task(self._read(requests))
        self._reading.add_done_callback(lambda _: self._end_if_done())
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
            if not self._reading.cancelled() and (error := self._reading.exception()):
                raise error
        finally:
            self._reading.cancel()
            for task in self._unanswered:
                task.cancel()

    def stop(self) -> None:
        """Reads no further; what has been read is still answered."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, requests: AsyncIterator[StreamRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "hello":
                    self._greet(request.hello)
                case "batch" if self._node:
                    await self._take(request.batch)
                case _:
                    raise TransportError(
                        "a stream begins with hello, which names the node; then come batches"
                    )

    def _greet(self, hello: Hello) -> None:
        if not hello.node:
            raise TransportError("hello names no node")
        self._node = hello.node
        welcome = self._intake.welcome(hello)
        for answer in welcome.probes:
            if not answer.accepted:
                log.warning(
                    "probe not accepted", node=self._node, probe=answer.probe, reason=answer.reason
                )
        log.info(
            "agent connected",
            node=self._node,
            version=hello.agent_version,
            probes=[p.probe for p in hello.probes],
        )
        self._answers.put_nowait(StreamResponse(welcome=welcome))

    async def _take(self, batch: Batch) -> None:
        taken = await self._intake.take(self._node, batch)
        batch.ClearField("body")
        batch.ClearField(
            "containers"
        )  # it may have to wait for long, and only its numbers are needed now
        task = asyncio.create_task(self._answer(batch, taken))
        self._unanswered.add(task)
        task.add_done_callback(self._answered)

    async def _answer(self, batch: Batch, taken: asyncio.Future[bool] | Rejection) -> None:
        """Waits for the batch's fate, has its account stored, then tells the agent."""
        rejection = taken if isinstance(taken, Rejection) else await self._fate(batch, taken)
        await self._accounts.record(self._node, batch, rejection)
        if rejection is not None:
            log.warning(
                "batch rejected", node=self._node, probe=batch.probe, reason=rejection.detail
            )
            self._answers.put_nowait(StreamResponse(rejection=rejection))
        else:
            self._answers.put_nowait(
                StreamResponse(acknowledgement=Acknowledgement(batch_id=batch.batch_id))
            )

    async def _fate(self, batch: Batch, stored: asyncio.Future[bool]) -> Rejection | None:
        try:
            repeated = await asyncio.shield(
                stored
            )  # the writer goes on, whatever becomes of this stream
        except StoreError as error:
            count_refusal(batch.probe, batch, REJECTION_REASON_STORE_ERROR)
            detail = f"batch {batch.batch_id!r} of {batch.probe}: the store rejects it: {error}"
            return Rejection(
                batch_id=batch.batch_id, reason=REJECTION_REASON_STORE_ERROR, detail=detail
            )
        if batch.rows:
            (metrics.BATCHES_REPEATED if repeated else metrics.BATCHES_STORED).labels(
                batch.probe
            ).inc()
        return None

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._unanswered.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error(
                "a batch is left unanswered; its agent sends it again",
                node=self._node,
                error=repr(error),
            )
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._reading is not None and self._reading.done() and not self._unanswered:
            self._answers.put_nowait(None)
