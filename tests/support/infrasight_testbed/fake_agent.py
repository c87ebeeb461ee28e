"""The agent's side of ControlService: a real gRPC client whose reports the test decides."""

import json
import queue
from collections.abc import Iterator
from threading import Thread
from typing import Any

import grpc
from infrasight.v1 import control_pb2
from infrasight.v1.control_pb2_grpc import ControlServiceStub
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import TlsFiles

TIMEOUT_SECONDS = 60.0


class FakeAgent:
    """An agent that is connected to an operator.

    Attributes:
        node: The agent's node.
        pod: The agent's pod.

    Args:
        address: The operator.
        node: The agent's node.
        pod: The agent's pod.
        tls: Files for mutual TLS.
        fields: Fields of the first report, besides node and pod.
    """

    def __init__(
        self, address: str, node: str, pod: str = "pod", tls: TlsFiles | None = None, **fields: Any
    ) -> None:
        self.node = node
        self.pod = pod
        self._channel = sync_channel(Peer(address, tls))
        self._requests: queue.Queue[control_pb2.FollowRequest | None] = queue.Queue()
        self._responses: queue.Queue[control_pb2.Configuration | grpc.RpcError | None] = (
            queue.Queue()
        )
        self.report(**fields)
        self._call: Any = ControlServiceStub(self._channel).Follow(self._iterate_requests())
        self._receiver = Thread(target=self._receive)
        self._receiver.start()

    def report(self, **fields: Any) -> None:
        """Sends a report.

        Args:
            fields: The report's fields; `packages` as pairs of name and version, `failures` as
                triples of name, reason and whether the name is a package.
        """
        packages = [
            control_pb2.Package(name=name, version=version)
            for name, version in fields.pop("packages", ())
        ]
        failures = [
            control_pb2.Failure(name=name, reason=reason, is_package=is_package)
            for name, reason, is_package in fields.pop("failures", ())
        ]
        identity = {"node": self.node, "pod": self.pod, "agent_version": "1.0"}
        self.send(
            control_pb2.Report(**{**identity, **fields}, packages=packages, failures=failures)
        )

    def send(self, report: control_pb2.Report) -> None:
        """Sends a report unchanged."""
        self._requests.put(control_pb2.FollowRequest(report=report))

    def next_configuration(self) -> control_pb2.Configuration:
        """Waits for the next configuration.

        Raises:
            grpc.RpcError: The operator ended the stream with an error.
            EOFError: The operator ended the stream without an error.
        """
        response = self._responses.get(timeout=TIMEOUT_SECONDS)
        if response is None:
            raise EOFError(f"the operator has ended the stream of {self.node}")
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def apply_next(self, **fields: Any) -> control_pb2.Configuration:
        """Waits for the next configuration and reports all its probes as running.

        Args:
            fields: Fields of the report that differ.
        """
        configuration = self.next_configuration()
        probes = json.loads(configuration.settings)["probes"]
        self.report(**{"digest": configuration.digest, "running": probes, **fields})
        return configuration

    def close(self) -> None:
        """Ends the stream like an agent that is killed."""
        self._call.cancel()
        self._requests.put(None)
        self._channel.close()
        self._receiver.join()

    def _iterate_requests(self) -> Iterator[control_pb2.FollowRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _receive(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response.configuration)
            self._responses.put(None)
        except grpc.RpcError as error:
            self._responses.put(error)


def get_configuration(
    address: str, node: str, tls: TlsFiles | None = None
) -> control_pb2.Configuration:
    """Calls GetConfiguration.

    Raises:
        grpc.RpcError: The operator rejected the call.
    """
    with sync_channel(Peer(address, tls)) as channel:
        request = control_pb2.GetConfigurationRequest(node=node)
        stub = ControlServiceStub(channel)
        response: control_pb2.GetConfigurationResponse = stub.GetConfiguration(request, timeout=20)
        return response.configuration
