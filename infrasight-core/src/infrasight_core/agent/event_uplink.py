"""Sends the outbox's batches to the server and hands the server's answers to the outbox.

The server is not trusted: no answer ends the agent. An answer that the protocol does not allow
breaks the stream, or is ignored and counted.
"""

import asyncio
from collections.abc import Callable, Sequence

import grpc.aio
import structlog
from infrasight.v1.stream_pb2 import Batch, Hello, StreamRequest, StreamResponse, Welcome
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from prometheus_client import Counter

from infrasight_core.agent.outbox import Outbox, head_of
from infrasight_core.net.channel import aio_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.peer_text import clean_text
from infrasight_core.net.reconnecting_stream import CONNECT_SECONDS, ReconnectingStream
from infrasight_core.net.rejection_reason import reason_name
from infrasight_core.net.tasks import run_together

log = structlog.get_logger(__name__)
CONNECTIONS = Counter(
    "infrasight_stream_connections", "Streams to the server that the agent has opened."
)
_LARGEST_ANSWER = 1 << 20  # bytes; the welcome is the largest, with a reason for each probe
_LONGEST_VERSION = 100  # characters
_Call = grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]


class EventUplink(ReconnectingStream):
    """The agent's stream to its server; open once the server has welcomed the agent.

    Attributes:
        not_accepted: The probes whose events the server does not accept, and why.

    Args:
        peer: The server.
        make_hello: Makes the first message of each stream.
        outbox: Holds the batches to send.
        on_store_folder: Called with the folder of the server's embedded store, which may be on
            another machine; with b"" once that is not known any more.
        others: Further servers that share the store.
    """

    def __init__(
        self,
        peer: Peer,
        make_hello: Callable[[], Hello],
        outbox: Outbox,
        on_store_folder: Callable[[bytes], None] = lambda _: None,
        others: Sequence[Peer] = (),
    ) -> None:
        super().__init__(peer, "server", others)
        self._make_hello = make_hello
        self._on_store_folder = on_store_folder
        self._outbox = outbox
        self._hello_due = asyncio.Event()
        self._unanswered_hellos: list[Hello] = []
        self._writing = asyncio.Lock()
        self.not_accepted: dict[str, str] = {}
        self._max_batch_bytes = 0  # 0: the server has named no limit

    @property
    def server(self) -> str:
        """The address of the current server, or of the next one to be tried."""
        return self._peer.address

    def greet_again(self) -> None:
        """Sends hello again on an open stream, because the probes have changed."""
        self._hello_due.set()

    async def _stream(self) -> None:
        try:
            await self._exchange()
        finally:
            self._outbox.resend_unacknowledged()
            self._on_store_folder(b"")

    async def _exchange(self) -> None:
        async with aio_channel(self._peer, _LARGEST_ANSWER) as channel:
            call = EventServiceStub(channel).Stream(metadata=self._peer.metadata())
            self._unanswered_hellos = []
            await asyncio.wait_for(call.write(self._next_hello()), CONNECT_SECONDS)
            first = await asyncio.wait_for(self._read(call, StreamResponse), CONNECT_SECONDS)
            if first is None:
                return
            if not first.HasField("welcome"):
                raise self._violation("no_welcome", "another message instead of a welcome")
            CONNECTIONS.inc()
            self._open(first.welcome)
            try:
                await run_together(
                    self._receive(call), self._send_batches(call), self._send_hellos(call)
                )
            finally:
                call.cancel()

    async def _receive(self, call: _Call) -> None:
        while (response := await self._read(call, StreamResponse)) is not None:
            self._dispatch(response)

    async def _send_batches(self, call: _Call) -> None:
        while True:
            batch = self._without_excess(await self._outbox.next_batch())
            async with self._writing:
                await self._write(call, StreamRequest(batch=batch))

    def _without_excess(self, batch: Batch) -> Batch:
        """Returns a batch, without its rows if the server would not even read them.

        The server rejects it then and records how many rows are dropped; the stream goes on.
        """
        size = batch.ByteSize()
        if not self._max_batch_bytes or size <= self._max_batch_bytes:
            return batch
        log.error(
            "batch exceeds the server's max_batch_bytes; it is sent without its rows",
            probe=batch.probe,
            events=batch.rows,
            bytes=size,
            limit=self._max_batch_bytes,
        )
        return head_of(batch)

    async def _send_hellos(self, call: _Call) -> None:
        while True:
            await self._hello_due.wait()
            async with self._writing:
                await self._write(call, self._next_hello())

    def _next_hello(self) -> StreamRequest:
        self._hello_due.clear()
        hello = self._make_hello()
        self._unanswered_hellos.append(hello)
        return StreamRequest(hello=hello)

    def _open(self, welcome: Welcome) -> None:
        if not self._unanswered_hellos:
            raise self._violation("unexpected_welcome", "a welcome that answers no hello")
        hello = self._unanswered_hellos.pop(0)
        self.open = True
        self.reason = "streaming"
        self._max_batch_bytes = welcome.max_batch_bytes
        log.info(
            "stream open",
            server=self._peer.address,
            server_version=clean_text(welcome.server_version, _LONGEST_VERSION),
        )
        self._on_store_folder(welcome.store_folder)
        answers = {answer.probe: answer for answer in welcome.probes}
        not_accepted = {}
        for announced in hello.probes:
            answer = answers.get(announced.probe)
            if answer is not None and not answer.accepted:
                reason = clean_text(answer.reason)
                not_accepted[announced.probe] = reason
                log.error(
                    "the server does not accept a probe's events; they wait here",
                    probe=announced.probe,
                    reason=reason,
                )
        self.not_accepted = not_accepted
        self._outbox.hold(not_accepted)

    def _dispatch(self, response: StreamResponse) -> None:
        is_known = True
        match response.WhichOneof("message"):
            case "acknowledgement":
                is_known = self._outbox.acknowledge(response.acknowledgement.batch_id)
                self.useful = self.useful or is_known
            case "rejection":
                rejection = response.rejection
                reason = reason_name(rejection.reason)
                detail = clean_text(rejection.detail)
                is_known = self._outbox.reject(rejection.batch_id, reason, detail)
            case "welcome":
                self._open(response.welcome)
            case _:
                self._ignore(
                    "unknown_message", "a message that this agent does not know; upgrade the agent"
                )
        if not is_known:
            self._ignore("unknown_batch", "an answer to a batch that was not sent on this stream")
