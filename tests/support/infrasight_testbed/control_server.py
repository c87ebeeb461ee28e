"""A minimal server of `infrasight.v1.ControlService`, whose configurations the test decides."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import grpc
from infrasight.v1.control_pb2 import (
    Configuration,
    FollowRequest,
    FollowResponse,
    GetConfigurationRequest,
    GetConfigurationResponse,
    Report,
)
from infrasight.v1.control_pb2_grpc import (
    ControlServiceServicer,
    add_ControlServiceServicer_to_server,
)
from infrasight_core.net.tls import TlsFiles

from infrasight_testbed.system import until


class ControlServer(ControlServiceServicer):
    """An operator for one node, on a loopback port; a context manager.

    Attributes:
        reports: The received reports, in order.
        requested_nodes: The nodes that called GetConfiguration, in order.

    Args:
        tls: The server's files; None for plaintext.
        started: Whether it listens at once.
    """

    def __init__(self, tls: TlsFiles | None = None, started: bool = True) -> None:
        self.reports: list[Report] = []
        self.requested_nodes: list[str] = []
        self._tls = tls
        self._port = 0
        self._configuration: Configuration | None = None
        self._changed = threading.Condition()
        self._generation = 0
        self.start()
        if not started:
            self.stop()

    @property
    def address(self) -> str:
        """The address, which a restart does not change."""
        return f"localhost:{self._port}"

    def start(self) -> None:
        """Starts listening."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_ControlServiceServicer_to_server(self, self._server)
        if self._tls is None:
            self._port = self._server.add_insecure_port(self.address)
        else:
            certificate, key, ca = self._tls.read()
            credentials = grpc.ssl_server_credentials(
                [(key, certificate)], ca, require_client_auth=True
            )
            self._port = self._server.add_secure_port(self.address, credentials)
        self._server.start()

    def stop(self) -> None:
        """Ends every call and stops listening."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
        self._server.stop(0).wait()

    def send(self, configuration: Configuration) -> None:
        """Sends a configuration to the connected agent and to agents that connect later."""
        with self._changed:
            self._configuration = configuration
            self._changed.notify_all()

    def wait(self, matches: Callable[[Report], bool], what: str) -> Report:
        """Waits until the newest report matches, and returns it."""
        until(
            lambda: bool(self.reports) and matches(self.reports[-1]),
            f"{what}; last report: {self.reports[-1:]}",
        )
        return self.reports[-1]

    def Follow(
        self, requests: Iterator[FollowRequest], context: grpc.ServicerContext
    ) -> Iterator[FollowResponse]:
        """Receives reports and sends configurations."""
        threading.Thread(target=self._receive, args=(requests,), daemon=True).start()
        generation = self._generation
        sent = None
        while generation == self._generation and context.is_active():
            with self._changed:
                if self._configuration is sent:
                    self._changed.wait(1)
                newest = self._configuration
            if newest is not None and newest is not sent:
                sent = newest
                yield FollowResponse(configuration=newest)

    def GetConfiguration(
        self, request: GetConfigurationRequest, context: grpc.ServicerContext
    ) -> GetConfigurationResponse:
        """Returns the current configuration."""
        self.requested_nodes.append(request.node)
        if self._configuration is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"node {request.node!r} is not known here")
        return GetConfigurationResponse(configuration=self._configuration)

    def _receive(self, requests: Iterator[FollowRequest]) -> None:
        try:
            self.reports.extend(request.report for request in requests)
        except grpc.RpcError:
            return  # the agent disconnected

    def __enter__(self) -> "ControlServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
