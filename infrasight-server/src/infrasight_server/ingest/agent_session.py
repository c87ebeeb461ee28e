"""Serves one agent's stream: reads its batches and answers each when the outcome is known."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

import structlog
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_CONFLICT,
    REJECTION_REASON_MALFORMED,
    REJECTION_REASON_STORE_ERROR,
    REJECTION_REASON_TOO_LARGE,
    Acknowledgement,
    Batch,
    Hello,
    Rejection,
    RejectionReason,
    StreamRequest,
    StreamResponse,
)
from infrasight_core.errors import (
    BatchConflictError,
    InfraSightError,
    StoreError,
    StoreUnavailableError,
    TransportError,
)
from infrasight_core.net.identity import Identity

from infrasight_server import metrics
from infrasight_server.ingest.pipeline import IngestPipeline, count_rejection
from infrasight_server.ingest.requests import InvalidRequest
from infrasight_server.ingest.validation import reject
from infrasight_server.limits import (
    HELLO_SECONDS,
    MAX_ID_BYTES,
    MAX_ROWS,
    MAX_UNANSWERED,
    find_hello_violation,
    find_identifier_violation,
)
from infrasight_server.store.accounts import AccountTables
from infrasight_server.store.outcome import StoreOutcome

log = structlog.get_logger(__name__)
_WARNING_SECONDS = 1.0


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
        self._unread = asyncio.Semaphore(MAX_UNANSWERED)
        self._failure: InfraSightError | None = None
        self._last_warning = -math.inf
        self._unanswered: set[asyncio.Task[None]] = set()
        self._node = ""
        self._began = time.monotonic()
        self._reader: asyncio.Task[None] | None = None

    async def run(
        self, requests: AsyncIterator[StreamRequest | InvalidRequest]
    ) -> AsyncIterator[StreamResponse]:
        """Reads the requests and yields the responses.

        It ends when the agent ends the stream or `stop` is called, after the last batch that was
        read has been answered.

        Raises:
            TransportError: The agent violates the protocol.
            AccessError: The agent may not write for the node that its hello names.
            StoreUnavailableError: A batch cannot be answered; the agent has to send it again.
        """
        self._reader = asyncio.create_task(self._read(requests))
        self._reader.add_done_callback(lambda _: self._end_if_complete())
        try:
            while (response := await self._responses.get()) is not None:
                yield response
                self._unread.release()
            error = None if self._reader.cancelled() else self._reader.exception()
            if error is None:
                error = self._failure
            if error is not None:
                raise error
        finally:
            # Batches that have been read are stored in any case, and so are their accounts.
            self._reader.cancel()

    def stop(self) -> None:
        """Stops reading; every batch that was read is still answered."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: AsyncIterator[StreamRequest | InvalidRequest]) -> None:
        source = aiter(requests)
        while True:
            # An agent that does not read its answers is not read either.
            await self._unread.acquire()
            try:
                async with asyncio.timeout(None if self._node else HELLO_SECONDS):
                    request = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise TransportError(f"no hello within {HELLO_SECONDS:.0f} seconds") from error
            await self._dispatch(request)

    async def _dispatch(self, request: StreamRequest | InvalidRequest) -> None:
        if isinstance(request, InvalidRequest):
            self._reject_request(request)
            return
        match request.WhichOneof("message"):
            case "hello":
                self._welcome(request.hello)
            case "batch" if self._node:
                await self._accept(request.batch)
            case _:
                raise TransportError(
                    "a stream must begin with hello, which names the node; batches follow"
                )

    def _reject_request(self, request: InvalidRequest) -> None:
        if request.batch is None or not self._node:
            raise TransportError(request.reason)
        batch = request.batch
        batch.rows = min(batch.rows, MAX_ROWS)
        batch.ClearField("account")
        count_rejection("unknown", batch, REJECTION_REASON_TOO_LARGE)
        self._answer_later(batch, reject(batch, REJECTION_REASON_TOO_LARGE, request.reason))

    def _welcome(self, hello: Hello) -> None:
        if not hello.node:
            raise TransportError("hello must name the node")
        violation = find_hello_violation(hello)
        if violation:
            raise TransportError(violation)
        self._identity.require_node(hello.node)
        if self._node not in ("", hello.node):
            raise TransportError(
                f"this stream belongs to node {self._node!r}; node {hello.node!r} needs its own"
            )
        self._node = hello.node
        welcome = self._pipeline.welcome(hello)
        for answer in welcome.probes:
            if not answer.accepted:
                self._warn("probe rejected", probe=answer.probe, reason=answer.reason)
        log.info(
            "agent connected",
            node=self._node,
            version=hello.agent_version,
            probes=[announced.probe for announced in hello.probes],
        )
        self._responses.put_nowait(StreamResponse(welcome=welcome))

    async def _accept(self, batch: Batch) -> None:
        decrease = self._accounts.find_decrease(self._node, batch)
        accepted: asyncio.Future[StoreOutcome | Rejection] | Rejection
        if decrease:
            batch.ClearField("account")
            accepted = reject(batch, REJECTION_REASON_MALFORMED, decrease)
            count_rejection("unknown", batch, accepted.reason)
        else:
            accepted = await self._pipeline.accept(self._node, batch, self._began)
        self._answer_later(_without_body(batch), accepted)

    def _answer_later(
        self, batch: Batch, accepted: asyncio.Future[StoreOutcome | Rejection] | Rejection
    ) -> None:
        task = asyncio.create_task(self._answer(batch, accepted))
        self._unanswered.add(task)
        task.add_done_callback(self._on_answered)

    async def _answer(
        self, batch: Batch, accepted: asyncio.Future[StoreOutcome | Rejection] | Rejection
    ) -> None:
        """Waits until the batch and its account are stored, then acknowledges or rejects it."""
        if isinstance(accepted, Rejection):
            rejection: Rejection | None = accepted
        else:
            rejection = await self._wait_stored(batch, accepted)
        if rejection is None or _can_be_recorded(batch):
            await self._accounts.record(self._node, batch, rejection)
        if rejection is None:
            acknowledgement = Acknowledgement(batch_id=batch.batch_id)
            self._responses.put_nowait(StreamResponse(acknowledgement=acknowledgement))
        else:
            self._warn("batch rejected", probe=batch.probe[:MAX_ID_BYTES], reason=rejection.detail)
            self._responses.put_nowait(StreamResponse(rejection=rejection))

    async def _wait_stored(
        self, batch: Batch, stored: asyncio.Future[StoreOutcome | Rejection]
    ) -> Rejection | None:
        """Waits until the store has the batch; returns a rejection if it will not have it."""
        try:
            outcome = await stored
        except BatchConflictError as error:
            return self._store_rejection(batch, REJECTION_REASON_CONFLICT, str(error))
        except StoreUnavailableError:
            raise  # the agent has to send it again
        except StoreError as error:
            problem = f"the store rejects it: {error}"
            return self._store_rejection(batch, REJECTION_REASON_STORE_ERROR, problem)
        if isinstance(outcome, Rejection):
            return outcome
        if batch.rows and outcome is StoreOutcome.INSERTED:
            metrics.BATCHES_STORED.labels(batch.probe).inc()
        elif batch.rows and outcome is StoreOutcome.ALREADY_STORED:
            metrics.BATCHES_REPEATED.labels(batch.probe).inc()
        return None

    def _store_rejection(self, batch: Batch, reason: RejectionReason, problem: str) -> Rejection:
        count_rejection(batch.probe, batch, reason)
        return reject(batch, reason, problem)

    def _on_answered(self, task: asyncio.Task[None]) -> None:
        self._unanswered.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error(
                "cannot answer a batch; its agent has to send it again",
                node=self._node,
                error=repr(error),
            )
            self._failure = StoreUnavailableError("a batch cannot be answered; send it again")
            self.stop()
        self._end_if_complete()

    def _warn(self, message: str, **fields: str) -> None:
        """Logs a warning about the agent, unless there was one just before."""
        now = time.monotonic()
        if now - self._last_warning >= _WARNING_SECONDS:
            self._last_warning = now
            log.warning(message, node=self._node, **fields)

    def _end_if_complete(self) -> None:
        if self._reader is not None and self._reader.done() and not self._unanswered:
            self._responses.put_nowait(None)


def _without_body(batch: Batch) -> Batch:
    """Returns what the answer to a batch needs; the rest is released before, in a batch's time."""
    head = Batch(batch_id=batch.batch_id, probe=batch.probe, rows=batch.rows)
    if batch.HasField("account"):
        head.account.CopyFrom(batch.account)
    return head


def _can_be_recorded(batch: Batch) -> bool:
    """Returns whether the table `rejections` may hold the batch's id and probe."""
    texts = [text for text in (batch.batch_id, batch.probe) if text]
    return not any(find_identifier_violation("", text) for text in texts)
