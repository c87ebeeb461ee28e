"""The agent's side of the stream: hello, batches up, acknowledgements down, and again after every break."""

import asyncio
import random
from collections.abc import Callable

import grpc
import grpc.aio
import structlog
from attrs import frozen
from infrasight.v1.stream_pb2 import Hello, RefusalReason, StreamRequest, StreamResponse, Welcome
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from prometheus_client import Counter

from infrasight_core.agent.outbox import Outbox
from infrasight_core.tls import TlsFiles
from infrasight_core.transport.channel import aio_channel

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
log = structlog.get_logger(__name__)
CONNECTIONS = Counter("infrasight_stream_connections", "Streams that were opened.")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts, doubled each time, at random up to a quarter less
CONNECT_SECONDS = 20.0


@frozen
class Peer:
    """The server that an agent streams to; see `sync_channel` for the three."""

    address: str
    tls: TlsFiles | None = None
    plaintext: bool = False


class AgentStream:
    """Keeps a stream open for as long as it runs; the server may be away for hours.

    Attributes:
        open: Whether the server has welcomed us.
        reason: Why it is not open, in one line.

    Args:
        peer: The server.
        hello: Makes the greeting anew for every stream.
        outbox: What to send.
    """

    def __init__(self, peer: Peer, hello: Callable[[], Hello], outbox: Outbox) -> None:
        self._peer, self._hello, self._outbox = peer, hello, outbox
        self.open, self.reason = False, "not connected yet"
        self._call: grpc.aio.StreamStreamCall[StreamRequest, StreamResponse] | None = None
        self._writing = asyncio.Lock()
        self._greeting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Streams until it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._stream()
                self.reason = "the server closed the stream"
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self.reason = reason_of(error)
            finally:
                was_open, self.open = self.open, False
                self._outbox.disconnected()
            pause = FIRST_PAUSE if was_open else min(pause * 2, LONGEST_PAUSE)
            log.warning("no stream to the server", server=self._peer.address, reason=self.reason, retry_seconds=pause)
            await asyncio.sleep(pause * random.uniform(0.75, 1))

    def greet(self) -> None:
        """Says hello again, because the probes have changed; where no stream is open, the next begins with it anyway."""
        if self.open and self._call is not None:
            self._greeting = asyncio.create_task(self._greet(self._call))

    async def _greet(self, call: "grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]") -> None:
        try:
            async with self._writing:
                await call.write(StreamRequest(hello=self._hello()))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug("the stream ended before hello was sent again; the next one begins with it", error=str(error))

    async def _stream(self) -> None:
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
                log.error("the server refuses a probe's events", probe=answer.probe, reason=answer.reason)

    def _take(self, response: StreamResponse) -> None:
        match response.WhichOneof("message"):
            case "acknowledgement":
                self._outbox.acknowledged(response.acknowledgement.batch_id)
            case "refusal":
                refusal = response.refusal
                self._outbox.refused(refusal.batch_id, RefusalReason.Name(refusal.reason), refusal.detail)
            case "welcome":
                self._welcomed(response.welcome)
            case unknown:
                log.warning("the server sent what this agent does not know; upgrade the agent", message=unknown)


def reason_of(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    """Why a stream has ended, in one line."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    return f"{error.code().name}: {error.details()}"
