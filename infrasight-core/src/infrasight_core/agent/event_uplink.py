"""Sends the outbox's batches to the server and hands the server's answers to the outbox."""

import asyncio
from collections.abc import Callable

import grpc.aio
import structlog
from infrasight.v1.stream_pb2 import Hello, StreamRequest, StreamResponse, Welcome
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from prometheus_client import Counter

from infrasight_core.agent.outbox import Outbox
from infrasight_core.net.channel import aio_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.reconnecting_stream import CONNECT_SECONDS, ReconnectingStream
from infrasight_core.net.rejection_reason import reason_name

log = structlog.get_logger(__name__)
CONNECTIONS = Counter(
    "infrasight_stream_connections", "Streams to the server that the agent has opened."
)
_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
_Call = grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]


class EventUplink(ReconnectingStream):
    """The agent's stream to its server; open once the server has welcomed the agent.

    Args:
        peer: The server.
        make_hello: Makes the first message of each stream.
        outbox: Holds the batches to send.
    """

    def __init__(self, peer: Peer, make_hello: Callable[[], Hello], outbox: Outbox) -> None:
        super().__init__(peer, "server")
        self._make_hello = make_hello
        self._outbox = outbox
        self._call: _Call | None = None
        self._writing = asyncio.Lock()
        self._greeting: asyncio.Task[None] | None = None

    def greet_again(self) -> None:
        """Sends hello again on an open stream, because the probes have changed."""
        if self.open and self._call is not None:
            self._greeting = asyncio.create_task(self._greet(self._call))

    async def _greet(self, call: _Call) -> None:
        try:
            async with self._writing:
                await call.write(StreamRequest(hello=self._make_hello()))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug(
                "stream ended before hello was sent; the next begins with it", error=str(error)
            )

    async def _stream(self) -> None:
        try:
            await self._exchange()
        finally:
            self._outbox.resend_unacknowledged()

    async def _exchange(self) -> None:
        async with aio_channel(self._peer) as channel:
            call = EventServiceStub(channel).Stream()
            hello = StreamRequest(hello=self._make_hello())
            await asyncio.wait_for(call.write(hello), CONNECT_SECONDS)
            first = await asyncio.wait_for(call.read(), CONNECT_SECONDS)
            if first is _EOF:
                return
            self._call = call
            self._open(first.welcome)
            sending = asyncio.create_task(self._send_batches(call))
            try:
                while (response := await call.read()) is not _EOF:
                    self._dispatch(response)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                call.cancel()

    async def _send_batches(self, call: _Call) -> None:
        while True:
            batch = await self._outbox.next_batch()
            async with self._writing:
                await call.write(StreamRequest(batch=batch))

    def _open(self, welcome: Welcome) -> None:
        CONNECTIONS.inc()
        self.open = True
        self.reason = "streaming"
        log.info("stream open", server=self._peer.address, server_version=welcome.server_version)
        for answer in welcome.probes:
            if not answer.accepted:
                log.error(
                    "server rejects a probe's events", probe=answer.probe, reason=answer.reason
                )

    def _dispatch(self, response: StreamResponse) -> None:
        match response.WhichOneof("message"):
            case "acknowledgement":
                self._outbox.acknowledge(response.acknowledgement.batch_id)
            case "rejection":
                rejection = response.rejection
                reason = reason_name(rejection.reason)
                self._outbox.reject(rejection.batch_id, reason, rejection.detail)
            case "welcome":
                self._open(response.welcome)
            case unknown:
                log.warning(
                    "server sent a message that this agent does not know; upgrade the agent",
                    message=unknown,
                )
