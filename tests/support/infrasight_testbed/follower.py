"""An agent's side of ControlService, by a real gRPC client; what it reports is the test's."""

import json
import queue
from collections.abc import Iterator
from threading import Thread
from typing import Any

import grpc
from infrasight.v1 import control_pb2
from infrasight.v1.control_pb2_grpc import ControlServiceStub
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.tls import TlsFiles

PATIENCE = 60.0


class Follower:
    """One open stream.

    Attributes:
        node: Its node.
        pod: Its pod.

    Args:
        address: The operator.
        node: Its node.
        pod: Its pod.
        tls: Files for mutual TLS.
        said: What it reports first, beside node and pod.
    """

    def __init__(
        self, address: str, node: str, pod: str = "pod", tls: TlsFiles | None = None, **said: Any
    ) -> None:
        self.node, self.pod = node, pod
        self._channel = sync_channel(address, tls, plaintext=False)
        self._reports: queue.Queue[control_pb2.FollowRequest | None] = queue.Queue()
        self._came: queue.Queue[control_pb2.Configuration | grpc.RpcError | None] = queue.Queue()
        self.report(**said)
        self._call: Any = ControlServiceStub(self._channel).Follow(self._requests())
        self._reading = Thread(target=self._read)
        self._reading.start()

    def report(self, **said: Any) -> None:
        """Sends a report; `packages` as pairs, `failures` as name, reason and whether it is a package."""
        packages = [
            control_pb2.Package(name=name, version=version)
            for name, version in said.pop("packages", ())
        ]
        failures = [
            control_pb2.Failure(name=n, reason=r, is_package=p)
            for n, r, p in said.pop("failures", ())
        ]
        whole = {"node": self.node, "pod": self.pod, "agent_version": "1.0", **said}
        self._reports.put(
            control_pb2.FollowRequest(
                report=control_pb2.Report(**whole, packages=packages, failures=failures)
            )
        )

    def send(self, report: control_pb2.Report) -> None:
        """Sends a report as it is."""
        self._reports.put(control_pb2.FollowRequest(report=report))

    def next(self) -> control_pb2.Configuration:
        """Waits for the next configuration. Raises grpc.RpcError when the stream has ended with one, EOFError without."""
        came = self._came.get(timeout=PATIENCE)
        if came is None:
            raise EOFError(f"the operator has ended the stream of {self.node}")
        if isinstance(came, grpc.RpcError):
            raise came
        return came

    def obey(self, **said: Any) -> control_pb2.Configuration:
        """Takes the next configuration and reports that all of it runs, but for what is said."""
        came = self.next()
        self.report(
            **{"digest": came.digest, "running": json.loads(came.settings)["probes"], **said}
        )
        return came

    def close(self) -> None:
        """Ends the stream as an agent that is killed does."""
        self._call.cancel()
        self._reports.put(None)
        self._channel.close()
        self._reading.join()

    def _requests(self) -> Iterator[control_pb2.FollowRequest]:
        while (request := self._reports.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                self._came.put(response.configuration)
            self._came.put(None)
        except grpc.RpcError as error:
            self._came.put(error)


def configuration_of(
    address: str, node: str, tls: TlsFiles | None = None
) -> control_pb2.Configuration:
    """What GetConfiguration answers. Raises grpc.RpcError."""
    with sync_channel(address, tls, plaintext=False) as channel:
        request = control_pb2.GetConfigurationRequest(node=node)
        answer: control_pb2.GetConfigurationResponse = ControlServiceStub(channel).GetConfiguration(
            request, timeout=20
        )
        return answer.configuration
