"""gRPC channels to a server, for the agent's stream and for those who read."""

import grpc
import grpc.aio

from infrasight_core.net.address import Address
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

KEEPALIVE_MS = 60_000


def server_options() -> list[tuple[str, int]]:
    """What the server's side must set to get along with these channels."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # By default a server hangs up on who asks more often than every five minutes whether it is there.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def channel_options(address: str) -> list[tuple[str, int]]:
    """What both kinds of channel set: message size, and liveness that survives an idle stream."""
    options = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A quiet stream to a machine that vanished would never end: ask every minute whether it is there.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if Address.parse(
        address
    ).is_loopback:  # gRPC would send even this through a proxy that the environment names
        options.append(("grpc.enable_http_proxy", 0))
    return options


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials that show our certificate and ask for the server's. Raises ConfigError."""
    certificate, key, ca = tls.read()
    return grpc.ssl_channel_credentials(
        root_certificates=ca, private_key=key, certificate_chain=certificate
    )


def sync_channel(address: str, tls: TlsFiles | None, plaintext: bool) -> grpc.Channel:
    """A channel for threads. It connects at its first call.

    Raises:
        ConfigError: The address is malformed, the TLS files are unusable, or plaintext would leave the machine unasked.
    """
    require_tls_or_loopback(address, tls, plaintext)
    options = channel_options(address)
    if tls is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, channel_credentials(tls), options)


def aio_channel(address: str, tls: TlsFiles | None, plaintext: bool) -> grpc.aio.Channel:
    """A channel for asyncio; else as `sync_channel`."""
    require_tls_or_loopback(address, tls, plaintext)
    options = channel_options(address)
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options)
