"""A small real server of `infrasight.v1.ControlService`: an operator's side, which sends what a test tells it to."""

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
    """An operator on a loopback port, of one node; a context manager.

    Attributes:
        reports: What has been reported, in order.
        asked: The nodes that asked for their configuration.

    Args:
        tls: The server's own files; None for plaintext.
        started: Whether it listens from the beginning.
    """

    def __init__(self, tls: TlsFiles | None = None, started: bool = True) -> None:
        self.reports: list[Report] = []
        self.asked: list[str] = []
        self._tls = tls
        self._port = 0
        self._configuration: Configuration | None = None
        self._changed = threading.Condition()
        self._streams = 0
        self.start()
        if not started:
            self.stop()

    @property
    def address(self) -> str:
        """Where it listens; the same when it is started again."""
        return f"localhost:{self._port}"

    def start(self) -> None:
        """Listens."""
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
        """Breaks every call and listens no more."""
        with self._changed:
            self._streams += 1
            self._changed.notify_all()
        self._server.stop(0).wait()

    def send(self, configuration: Configuration) -> None:
        """Says what the node is to do, at once and to whoever comes later."""
        with self._changed:
            self._configuration = configuration
            self._changed.notify_all()

    def wait(self, fits: Callable[[Report], bool], what: str) -> Report:
        """Waits until the newest report fits, and returns it."""
        until(
            lambda: bool(self.reports) and fits(self.reports[-1]),
            f"{what}; reported: {self.reports[-1:]}",
        )
        return self.reports[-1]

    def Follow(
        self, requests: Iterator[FollowRequest], context: grpc.ServicerContext
    ) -> Iterator[FollowResponse]:
        """Takes reports and sends configurations."""
        threading.Thread(target=self._listen, args=(requests,), daemon=True).start()
        streams = self._streams
        sent = None
        while streams == self._streams and context.is_active():
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
        """Answers with the configuration as it stands."""
        self.asked.append(request.node)
        if self._configuration is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"node {request.node!r} is not known here")
        return GetConfigurationResponse(configuration=self._configuration)

    def _listen(self, requests: Iterator[FollowRequest]) -> None:
        try:
            self.reports.extend(request.report for request in requests)
        except grpc.RpcError:
            return  # the agent hung up

    def __enter__(self) -> "ControlServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
