"""The agent's side of the stream: hello, batches up, acknowledgements down, and again after every break."""

import asyncio
from collections.abc import Callable

import grpc.aio
import structlog
from infrasight.v1.stream_pb2 import Hello, RejectionReason, StreamRequest, StreamResponse, Welcome
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from prometheus_client import Counter

from infrasight_core.agent.outbox import Outbox
from infrasight_core.net.channel import aio_channel
from infrasight_core.net.reconnecting_stream import CONNECT_SECONDS, Peer, ReconnectingStream

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
log = structlog.get_logger(__name__)
CONNECTIONS = Counter("infrasight_stream_connections", "Streams that were opened.")


class EventUplink(ReconnectingStream):
    """The agent's stream to its server; open when the server has welcomed us.

    Args:
        peer: The server.
        hello: Makes the greeting anew for every stream.
        outbox: What to send.
    """

    def __init__(self, peer: Peer, hello: Callable[[], Hello], outbox: Outbox) -> None:
        super().__init__(peer, "server")
        self._hello, self._outbox = hello, outbox
        self._call: grpc.aio.StreamStreamCall[StreamRequest, StreamResponse] | None = None
        self._writing = asyncio.Lock()
        self._greeting: asyncio.Task[None] | None = None

    def greet(self) -> None:
        """Says hello again, because the probes have changed; where no stream is open, the next begins with it anyway."""
        if self.open and self._call is not None:
            self._greeting = asyncio.create_task(self._greet(self._call))

    async def _greet(
        self, call: "grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]"
    ) -> None:
        try:
            async with self._writing:
                await call.write(StreamRequest(hello=self._hello()))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug(
                "the stream ended before hello was sent again; the next one begins with it",
                error=str(error),
            )

    async def _stream(self) -> None:
        try:
            await self._exchange()
        finally:
            self._outbox.disconnected()

    async def _exchange(self) -> None:
        async with aio_channel(self._peer.address, self._peer.tls, self._peer.plaintext) as channel:
            call = EventServiceStub(channel).Stream()
            await asyncio.wait_for(call.write(StreamRequest(hello=self._hello())), CONNECT_SECONDS)
            first = await asyncio.wait_for(call.read(), CONNECT_SECONDS)
            if first is _EOF:
                return
            self._call = call
            self._welcomed(first.welcome)
            sending = asyncio.create_task(self._send(call))
            try:
                while (response := await call.read()) is not _EOF:
                    self._take(response)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                call.cancel()

    async def _send(self, call: "grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]") -> None:
        while True:
            batch = await self._outbox.next()
            async with self._writing:
                await call.write(StreamRequest(batch=batch))

    def _welcomed(self, welcome: Welcome) -> None:
        CONNECTIONS.inc()
        self.open, self.reason = True, "streaming"
        log.info("stream open", server=self._peer.address, server_version=welcome.server_version)
        for answer in welcome.probes:
            if not answer.accepted:
                log.error(
                    "the server refuses a probe's events", probe=answer.probe, reason=answer.reason
                )

    def _take(self, response: StreamResponse) -> None:
        match response.WhichOneof("message"):
            case "acknowledgement":
                self._outbox.acknowledged(response.acknowledgement.batch_id)
            case "rejection":
                rejection = response.rejection
                self._outbox.rejected(
                    rejection.batch_id, RejectionReason.Name(rejection.reason), rejection.detail
                )
            case "welcome":
                self._welcomed(response.welcome)
            case unknown:
                log.warning(
                    "the server sent what this agent does not know; upgrade the agent",
                    message=unknown,
                )
