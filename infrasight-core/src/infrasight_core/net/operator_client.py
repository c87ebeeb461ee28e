"""Fetches a node's configuration from the operator once, before the node's agent starts."""

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
from infrasight_core.net.channel import sync_channel, verify_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.peer_text import clean_text

log = structlog.get_logger(__name__)
LARGEST_CONFIGURATION = 4 << 20  # bytes
_PAUSE = 1.0  # seconds between attempts
_LONGEST_CALL = 10.0  # seconds
_TEMPORARY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.NOT_FOUND,  # also for a node that the operator has not seen yet
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)


def fetch_configuration(node: str, peer: Peer, seconds: float) -> Configuration:
    """Fetches the node's current configuration, and retries while the operator is unavailable.

    Args:
        node: The node's name.
        peer: The operator.
        seconds: How long to try.

    Raises:
        TransportError: The operator did not answer in that time, or rejected the request.
        ConfigError: The address is malformed, the TLS files are unusable, or there is no TLS for a
            connection over the network.
    """
    deadline = time.monotonic() + seconds
    request = GetConfigurationRequest(node=node)
    with sync_channel(peer, LARGEST_CONFIGURATION) as channel:
        stub = ControlServiceStub(channel)
        while True:
            timeout = min(max(deadline - time.monotonic(), _PAUSE), _LONGEST_CALL)
            try:
                verify_channel(channel, peer)
                response: GetConfigurationResponse = stub.GetConfiguration(
                    request, timeout=timeout, metadata=peer.metadata()
                )
            except (grpc.RpcError, TransportError) as error:
                reason = _describe(error)
                is_temporary = isinstance(error, TransportError) or error.code() in _TEMPORARY
                if not is_temporary or time.monotonic() + _PAUSE >= deadline:
                    raise TransportError(
                        f"no configuration from the operator at {peer.address}: {reason}"
                    ) from error
                log.info("asking the operator again", operator=peer.address, reason=reason)
            else:
                return response.configuration
            time.sleep(_PAUSE)


def _describe(error: grpc.RpcError | TransportError) -> str:
    if isinstance(error, TransportError):
        return str(error)
    details = clean_text(error.details() or "no reason given")
    return f"{error.code().name}: {details}"
