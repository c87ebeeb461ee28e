"""The gRPC server for agents."""

import grpc.aio
from infrasight.v1.control_pb2_grpc import add_ControlServiceServicer_to_server
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.channel import server_options
from infrasight_core.net.listener_credentials import ListenerCredentials

from infrasight_operator.control.service import MAX_STREAMS, ControlService
from infrasight_operator.model.agent_report import MAX_REPORT_BYTES

_MAX_OTHER_CALLS = 1000
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    # Larger than the limit on reports, so that the service can reject a report with a reason.
    ("grpc.max_receive_message_length", 2 * MAX_REPORT_BYTES),
    # Detects an agent whose machine vanished within 50 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def build_server(
    service: ControlService, address: str, credentials: ListenerCredentials | None
) -> tuple[grpc.aio.Server, int]:
    """Binds a server that is not started yet; returns it with its port.

    Raises:
        ConfigError: The address is unusable.
    """
    options = dict([*server_options(), *_OPTIONS])
    server = grpc.aio.server(
        options=list(options.items()), maximum_concurrent_rpcs=MAX_STREAMS + _MAX_OTHER_CALLS
    )
    add_ControlServiceServicer_to_server(service, server)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials.for_grpc())
    except RuntimeError as error:
        raise ConfigError(
            f"listen: cannot bind {address}; is another operator running, or does the address "
            "belong to another machine?"
        ) from error
    return server, Address.parse(address).port or port
