"""The gRPC service that agents connect to."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import structlog
from infrasight.v1 import control_pb2
from infrasight.v1.control_pb2_grpc import ControlServiceServicer

from infrasight_operator.control.agents import AgentLink, Agents
from infrasight_operator.metrics import REPORTS
from infrasight_operator.model.agent_report import Report, ReportError, check_node
from infrasight_operator.model.resolution import Resolved

log = structlog.get_logger(__name__)
MAX_STREAMS = 10_000
FIRST_SECONDS = 20.0  # within which an agent must say who it is


class ControlService(ControlServiceServicer):
    """Tells agents what to record, and hears what became of it.

    Args:
        agents: The agents that are connected.
    """

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def Follow(  # noqa: N802 -- the name in the .proto
        self,
        requests: AsyncIterator[control_pb2.FollowRequest],
        context: grpc.aio.ServicerContext[control_pb2.FollowRequest, control_pb2.FollowResponse],
    ) -> AsyncIterator[control_pb2.FollowResponse]:
        """One agent's stream."""
        if len(self._agents) >= MAX_STREAMS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{MAX_STREAMS} agents are connected, no more are taken",
            )
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                report = self._checked(await anext(requests))
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no report within {FIRST_SECONDS:.0f} s"
            )
        except StopAsyncIteration:
            return
        except ReportError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        link = self._agents.connected(report)
        log.info(
            "an agent has connected",
            node=report.node,
            pod=report.pod,
            agent_version=report.agent_version,
        )
        reading = asyncio.create_task(self._read(requests, link))
        try:
            while (wanted := await link.next()) is not None:
                yield control_pb2.FollowResponse(configuration=configuration(wanted))
        finally:
            reading.cancel()
            self._agents.gone(link)
            log.info(
                "an agent's stream has ended",
                node=report.node,
                pod=report.pod,
                reason=link.closed or "it was broken",
            )
        wrong = reading.exception() if reading.done() and not reading.cancelled() else None
        if isinstance(wrong, ReportError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(wrong))
        if link.closed and link.closed != _HUNG_UP:
            await context.abort(grpc.StatusCode.ABORTED, link.closed)

    async def GetConfiguration(  # noqa: N802
        self,
        request: control_pb2.GetConfigurationRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.GetConfigurationRequest, control_pb2.GetConfigurationResponse
        ],
    ) -> control_pb2.GetConfigurationResponse:
        """What a node is to record, for what prepares its pod."""
        try:
            check_node(request.node)
        except ReportError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        wanted = self._agents.wanted(request.node)
        if wanted is None:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"the operator does not know node {request.node} (yet): it is no node of this installation, or try again",
            )
        self._agents.asked(request.node, wanted.packages_digest)
        return control_pb2.GetConfigurationResponse(configuration=configuration(wanted))

    async def _read(
        self, requests: AsyncIterator[control_pb2.FollowRequest], link: AgentLink
    ) -> None:
        """Takes reports until the agent says no more; then the stream ends. Raises ReportError."""
        why = _HUNG_UP
        try:
            async for request in requests:
                report = self._checked(request)
                if report.node != link.node:
                    raise ReportError(f"node {report.node!r}: this stream began as {link.node!r}")
                self._agents.reported(link, report)
        except ReportError as error:
            why = str(error)
            raise
        finally:
            link.close(why)

    def _checked(self, request: control_pb2.FollowRequest) -> Report:
        try:
            report = Report.of(request.report)
        except ReportError:
            REPORTS.labels("rejected").inc()
            raise
        REPORTS.labels("taken").inc()
        return report


def configuration(wanted: Resolved) -> control_pb2.Configuration:
    """The message for a node."""
    return control_pb2.Configuration(
        digest=wanted.digest,
        settings=wanted.settings,
        packages=[
            control_pb2.Package(name=package.name, version=package.version, hashes=package.hashes)
            for package, _ in wanted.packages
        ],
    )


_HUNG_UP = "the agent has ended it"
