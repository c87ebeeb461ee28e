"""ControlService: the gRPC service that sends configurations to agents and receives reports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc
import grpc.aio
import structlog
from infrasight.v1 import control_pb2
from infrasight.v1.control_pb2_grpc import ControlServiceServicer
from infrasight_core.errors import AccessError, AuthenticationError
from infrasight_core.net.call_guard import CallGuard, Context
from infrasight_core.net.identity import Identity, Role

from infrasight_operator.control.agent_registry import AgentLink, AgentRegistry
from infrasight_operator.metrics import REPORTS
from infrasight_operator.model.agent_report import Report, ReportError, check_node_name
from infrasight_operator.model.resolution import NodeConfiguration

log = structlog.get_logger(__name__)
MAX_STREAMS = 10_000
FIRST_REPORT_SECONDS = 20.0
_CLOSED_BY_AGENT = "closed by the agent"


class ControlService(ControlServiceServicer):
    """Sends each agent its configuration and receives its reports.

    Attributes:
        guard: Admits the calls; its task ends those whose peer has lost its access.

    Args:
        agents: The registry of connected agents.
        identify: Returns the peer of a call; raises AccessError.
    """

    def __init__(self, agents: AgentRegistry, identify: Callable[[Context], Identity]) -> None:
        self.guard = CallGuard(identify)
        self._agents = agents

    async def Follow(  # noqa: N802 -- the name in the .proto
        self,
        requests: AsyncIterator[control_pb2.FollowRequest],
        context: grpc.aio.ServicerContext[control_pb2.FollowRequest, control_pb2.FollowResponse],
    ) -> AsyncIterator[control_pb2.FollowResponse]:
        """Serves the stream of one agent."""
        if len(self._agents) >= MAX_STREAMS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the operator is at its limit of {MAX_STREAMS} connected agents",
            )
        handler = partial(self._follow, requests, context)
        try:
            async for response in self.guard.serve(context, handler, Role.AGENT, Role.AGENTS):
                yield response
        except AccessError as error:
            await _abort(context, error)

    async def _follow(
        self,
        requests: AsyncIterator[control_pb2.FollowRequest],
        context: grpc.aio.ServicerContext[control_pb2.FollowRequest, control_pb2.FollowResponse],
        identity: Identity,
    ) -> AsyncIterator[control_pb2.FollowResponse]:
        try:
            async with asyncio.timeout(FIRST_REPORT_SECONDS):
                report = self._parse_report(await anext(requests))
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no report within {FIRST_REPORT_SECONDS:.0f} s"
            )
        except StopAsyncIteration:
            return
        except ReportError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        identity.require_node(report.node)
        link = self._agents.connect(report, identity.name)
        log.info(
            "agent connected",
            node=report.node,
            pod=report.pod,
            agent_version=report.agent_version,
        )
        receiving = asyncio.create_task(self._receive_reports(requests, link))
        try:
            while (configuration := await link.next()) is not None:
                message = configuration_message(configuration)
                yield control_pb2.FollowResponse(configuration=message)
        finally:
            receiving.cancel()
            self._agents.disconnect(link)
            log.info(
                "agent disconnected",
                node=report.node,
                pod=report.pod,
                reason=link.close_reason or "the connection broke",
            )
        failure = None
        if receiving.done() and not receiving.cancelled():
            failure = receiving.exception()
        if isinstance(failure, ReportError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(failure))
        if link.close_reason and link.close_reason != _CLOSED_BY_AGENT:
            await context.abort(grpc.StatusCode.ABORTED, link.close_reason)

    async def GetConfiguration(  # noqa: N802
        self,
        request: control_pb2.GetConfigurationRequest,
        context: grpc.aio.ServicerContext[
            control_pb2.GetConfigurationRequest, control_pb2.GetConfigurationResponse
        ],
    ) -> control_pb2.GetConfigurationResponse:
        """Returns a node's configuration to the init container of its pod."""
        try:
            identity = self.guard.admit(context, Role.AGENT, Role.AGENTS)
            identity.require_node(request.node)
            check_node_name(request.node)
        except AccessError as error:
            await _abort(context, error)
        except ReportError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        configuration = self._agents.configuration(request.node)
        if configuration is None:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"the operator does not know node {request.node}: it does not belong to this "
                "installation, or it is new; try again",
            )
        self._agents.record_pod_packages(request.node, configuration.packages_digest)
        message = configuration_message(configuration)
        return control_pb2.GetConfigurationResponse(configuration=message)

    async def _receive_reports(
        self, requests: AsyncIterator[control_pb2.FollowRequest], link: AgentLink
    ) -> None:
        """Receives reports until the agent ends its side, then closes the stream.

        Raises:
            ReportError: A report is invalid, or about another node.
        """
        close_reason = _CLOSED_BY_AGENT
        try:
            async for request in requests:
                report = self._parse_report(request)
                if report.node != link.node:
                    raise ReportError(f"node {report.node!r}: this stream belongs to {link.node!r}")
                self._agents.record_report(link, report)
        except ReportError as error:
            close_reason = str(error)
            raise
        finally:
            link.close(close_reason)

    def _parse_report(self, request: control_pb2.FollowRequest) -> Report:
        try:
            report = Report.from_message(request.report)
        except ReportError:
            REPORTS.labels("rejected").inc()
            raise
        REPORTS.labels("accepted").inc()
        return report


def configuration_message(configuration: NodeConfiguration) -> control_pb2.Configuration:
    """The protobuf message for a node's configuration."""
    packages = [
        control_pb2.Package(name=package.name, version=package.version, hashes=package.hashes)
        for package, _ in configuration.packages
    ]
    return control_pb2.Configuration(
        digest=configuration.digest, settings=configuration.settings, packages=packages
    )


async def _abort(context: Context, error: AccessError) -> None:
    status = grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, AuthenticationError):
        status = grpc.StatusCode.UNAUTHENTICATED
    await context.abort(status, str(error))
