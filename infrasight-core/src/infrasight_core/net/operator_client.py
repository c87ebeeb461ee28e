"""Asking an operator once for a node's configuration."""

import time

import grpc
import structlog
from infrasight.v1.control_pb2 import (
    Configuration,
    GetConfigurationRequest,
    GetConfigurationResponse,
)
from infrasight.v1.control_pb2_grpc import ControlServiceStub

from infrasight_core.errors import TransportError
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.reconnecting_stream import Peer

log = structlog.get_logger(__name__)
PAUSE = 1.0  # seconds between attempts
ANSWER_SECONDS = 10.0
_MAY_PASS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.NOT_FOUND,  # a node that is new to the operator, too
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)


def configuration_of(node: str, peer: Peer, seconds: float) -> Configuration:
    """The node's configuration as it stands; asks again while the operator is away.

    Args:
        node: The node's name.
        peer: The operator.
        seconds: How long.

    Raises:
        TransportError: There was no answer in that time, or the operator refused.
        ConfigError: The address is malformed, the TLS files are unusable, or plaintext would leave the machine unasked.
    """
    deadline = time.monotonic() + seconds
    with sync_channel(peer.address, peer.tls, peer.plaintext) as channel:
        stub = ControlServiceStub(channel)
        while True:
            wait = min(max(deadline - time.monotonic(), PAUSE), ANSWER_SECONDS)
            try:
                answer: GetConfigurationResponse = stub.GetConfiguration(
                    GetConfigurationRequest(node=node), timeout=wait
                )
            except grpc.RpcError as error:
                reason = f"{error.code().name}: {' '.join((error.details() or 'no reason given').split())}"
                if error.code() not in _MAY_PASS or time.monotonic() + PAUSE >= deadline:
                    raise TransportError(
                        f"the operator at {peer.address} has not said what to install: {reason}"
                    ) from error
                log.info("asking the operator again", operator=peer.address, reason=reason)
            else:
                return answer.configuration
            time.sleep(PAUSE)
