"""The agent's stream to its operator: reports up, configurations down, and again after every break."""

import asyncio
from collections.abc import Callable

import grpc.aio
import structlog
from infrasight.v1.control_pb2 import Configuration, FollowRequest, FollowResponse, Report
from infrasight.v1.control_pb2_grpc import ControlServiceStub

from infrasight_core.net.channel import aio_channel
from infrasight_core.net.reconnecting_stream import CONNECT_SECONDS, Peer, ReconnectingStream

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
log = structlog.get_logger(__name__)
LOOK_SECONDS = 1.0  # between two looks at whether there is anything new to report


class ControlStream(ReconnectingStream):
    """The agent's stream to its operator; open when the operator has sent a configuration by it.

    Args:
        peer: The operator.
        report: What there is to report now.
        take: Called with every configuration that comes.
    """

    def __init__(
        self, peer: Peer, report: Callable[[], Report], take: Callable[[Configuration], None]
    ) -> None:
        super().__init__(peer, "operator")
        self._report, self._take = report, take
        self._look = asyncio.Event()

    def tell(self) -> None:
        """Reports now if there is anything new, rather than at the next look."""
        self._look.set()

    async def _stream(self) -> None:
        async with aio_channel(self._peer.address, self._peer.tls, self._peer.plaintext) as channel:
            call = ControlServiceStub(channel).Follow()
            told = self._report()
            await asyncio.wait_for(call.write(FollowRequest(report=told)), CONNECT_SECONDS)
            self.reason = "connected, and nothing has come yet"
            telling = asyncio.create_task(self._tell(call, told))
            try:
                while (response := await call.read()) is not _EOF:
                    if not self.open:
                        log.info("the operator's stream is open", operator=self._peer.address)
                    self.open, self.reason = True, "following"
                    self._take(response.configuration)
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                call.cancel()

    async def _tell(
        self, call: "grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]", told: Report
    ) -> None:
        while True:
            try:
                await asyncio.wait_for(self._look.wait(), LOOK_SECONDS)
            except TimeoutError:
                log.debug("looking whether there is anything to report")
            self._look.clear()
            if (now := self._report()) != told:
                await call.write(FollowRequest(report=now))
                told = now
