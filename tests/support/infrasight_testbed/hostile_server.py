"""A server that attacks its agent: it sends raw bytes over a real gRPC socket, and then behaves."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from infrasight.v1.control_pb2 import Configuration, FollowRequest, FollowResponse, Report
from infrasight.v1.stream_pb2 import (
    Acknowledgement,
    Batch,
    StreamRequest,
    StreamResponse,
    Welcome,
)
from infrasight_core.net import ipc

from infrasight_testbed.system import until

Attack = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]
WELCOME = StreamResponse(welcome=Welcome(server_version="1.0")).SerializeToString()


class HostileServer(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not at run time
    """A server for one agent on a loopback port; a context manager.

    Without an attack it is honest: it welcomes the agent and acknowledges every batch.

    Attributes:
        batches: The batches that it has acknowledged, in order.
        streams: How many streams the agent has opened.

    Args:
        credentials: The server's TLS; None for plaintext.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.batches: list[Batch] = []
        self.streams = 0
        self._credentials = credentials
        self._attacks: list[Attack] = []
        self._honest_stream: grpc.ServicerContext | None = None
        self._lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        """The address, which a restart does not change."""
        return f"localhost:{self._port}"

    def start(self, plaintext: bool = False) -> None:
        """Starts listening; in plaintext although it has credentials, if so asked."""
        options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(8), [self], options=options)
        if self._credentials is None or plaintext:
            self._port = self._server.add_insecure_port(self.address)
        else:
            self._port = self._server.add_secure_port(self.address, self._credentials)
        self._server.start()

    def stop(self) -> None:
        """Breaks every stream and stops listening."""
        self._server.stop(0).wait()

    def attack(self, attack: Attack, times: int = 1) -> None:
        """Attacks the agent's next streams, after breaking the current one.

        It returns once the attack has ended and the agent has opened an honest stream again.
        """
        with self._lock:
            self._attacks = [attack] * times
            honest_stream = self._honest_stream
            self._honest_stream = None
        if honest_stream is not None:
            honest_stream.cancel()  # type: ignore[no-untyped-call]
        until(lambda: self._honest_stream is not None, "the agent reconnects after the attack", 60)

    def events(self, marker: str) -> list[int]:
        """The numbers of the execve events with the marker, see `system.execute`."""
        numbers = []
        for batch in list(self.batches):
            if batch.probe == "execve" and batch.arrow:
                argv = ipc.from_frame(batch.arrow)["argv"].to_pylist()
                numbers += [int(words[2]) for words in argv if words[1:2] == [marker.encode()]]
        return sorted(numbers)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Handles every method: raw bytes come in and go out."""
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def _serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        with self._lock:
            self.streams += 1
            attack = self._attacks.pop(0) if self._attacks else None
            if attack is None:
                self._honest_stream = context
        yield from (attack or self._behave)(requests, context)

    def _behave(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            batch = StreamRequest.FromString(request).batch
            if batch.batch_id:
                self.batches.append(batch)
                acknowledgement = Acknowledgement(batch_id=batch.batch_id)
                yield StreamResponse(acknowledgement=acknowledgement).SerializeToString()
            else:
                yield WELCOME

    def __enter__(self) -> "HostileServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class HostileOperator(HostileServer):
    """An operator for one agent. Without an attack it sends one configuration.

    Attributes:
        reports: The reports of the agent.

    Args:
        configuration: What it sends when it is honest.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.reports: list[Report] = []
        self._configuration = configuration
        super().__init__()

    def send(self, configuration: Configuration) -> Report:
        """Sends a configuration; returns the first report after the agent has handled it."""
        handled: list[Report] = []

        def attack(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            first = FollowRequest.FromString(next(requests)).report
            yield FollowResponse(configuration=configuration).SerializeToString()
            for request in requests:
                report = FollowRequest.FromString(request).report
                if (report.digest, report.rejected) != (first.digest, first.rejected):
                    handled.append(report)
                    return

        self.attack(attack)
        return handled[0]

    def _behave(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield FollowResponse(configuration=self._configuration).SerializeToString()
        for request in requests:
            self.reports.append(FollowRequest.FromString(request).report)
