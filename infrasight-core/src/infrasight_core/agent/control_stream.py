"""Sends reports to the operator and hands its configurations to the operator link."""

import asyncio
from collections.abc import Callable

import grpc.aio
import structlog
from infrasight.v1.control_pb2 import Configuration, FollowRequest, FollowResponse, Report
from infrasight.v1.control_pb2_grpc import ControlServiceStub

from infrasight_core.net.channel import aio_channel
from infrasight_core.net.operator_client import LARGEST_CONFIGURATION
from infrasight_core.net.peer import Peer
from infrasight_core.net.reconnecting_stream import CONNECT_SECONDS, ReconnectingStream
from infrasight_core.net.tasks import run_together

log = structlog.get_logger(__name__)
_REPORT_INTERVAL = 1.0  # seconds between two looks at whether the report has changed
_Call = grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]


class ControlStream(ReconnectingStream):
    """The agent's stream to its operator; open once the operator has sent a configuration on it.

    Args:
        peer: The operator.
        report: Returns the report as of now.
        receive: Gets each configuration that arrives.
    """

    def __init__(
        self, peer: Peer, report: Callable[[], Report], receive: Callable[[Configuration], None]
    ) -> None:
        super().__init__(peer, "operator")
        self._report = report
        self._receive = receive
        self._report_due = asyncio.Event()

    def report_now(self) -> None:
        """Sends the report now if it has changed, instead of at the next look."""
        self._report_due.set()

    async def _stream(self) -> None:
        async with aio_channel(self._peer, LARGEST_CONFIGURATION) as channel:
            call = ControlServiceStub(channel).Follow(metadata=self._peer.metadata())
            report = self._report()
            await asyncio.wait_for(call.write(FollowRequest(report=report)), CONNECT_SECONDS)
            self.reason = "connected, but no configuration has arrived yet"
            try:
                await run_together(self._receive_all(call), self._send_changes(call, report))
            finally:
                call.cancel()

    async def _receive_all(self, call: _Call) -> None:
        while (response := await self._read(call, FollowResponse)) is not None:
            if not response.HasField("configuration"):
                self._ignore(
                    "unknown_message", "a message that this agent does not know; upgrade the agent"
                )
                continue
            if not self.open:
                log.info("operator stream open", operator=self._peer.address)
            self.open = True
            self.reason = "following"
            self._receive(response.configuration)

    async def _send_changes(self, call: _Call, sent: Report) -> None:
        while True:
            try:
                await asyncio.wait_for(self._report_due.wait(), _REPORT_INTERVAL)
            except TimeoutError:
                log.debug("looking for changes to report")
            self._report_due.clear()
            report = self._report()
            if report != sent:
                await self._write(call, FollowRequest(report=report))
                sent = report
