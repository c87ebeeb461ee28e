"""Opens gRPC channels to a server or operator, for the agent's streams and for clients."""

import grpc
import grpc.aio

from infrasight_core.net.address import Address
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import TlsFiles

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_FIRST_RECONNECT_MS = 500
_LONGEST_RECONNECT_MS = 5_000


def server_options() -> list[tuple[str, int]]:
    """Returns the options that a gRPC server must set to serve these channels."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # By default a server disconnects clients that ping more often than every five minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def channel_options(
    address: str, max_receive_bytes: int = MAX_MESSAGE_BYTES
) -> list[tuple[str, int]]:
    """Returns the options of a channel: message sizes, keepalive and reconnection."""
    options = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", max_receive_bytes),
        # Without pings, an idle stream to a machine that vanished would never end.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MS),
    ]
    if Address.parse(address).is_loopback:
        # gRPC uses the environment's HTTP proxy even for loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def channel_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Returns the credentials for mutual TLS. Raises ConfigError."""
    certificate, key, ca = tls.read()
    return grpc.ssl_channel_credentials(
        root_certificates=ca, private_key=key, certificate_chain=certificate
    )


def sync_channel(peer: Peer, max_receive_bytes: int = MAX_MESSAGE_BYTES) -> grpc.Channel:
    """Opens a channel for threads, which connects at its first call.

    Args:
        peer: The other process.
        max_receive_bytes: The largest message that it may send; a larger one ends the call.

    Raises:
        ConfigError: The address is malformed, the TLS files are unusable, or there is no TLS for a
            connection over the network.
    """
    peer.require_tls_or_loopback()
    options = channel_options(peer.address, max_receive_bytes)
    if peer.tls is None:
        return grpc.insecure_channel(peer.address, options)
    return grpc.secure_channel(peer.address, channel_credentials(peer.tls), options)


def aio_channel(peer: Peer, max_receive_bytes: int = MAX_MESSAGE_BYTES) -> grpc.aio.Channel:
    """Opens a channel for asyncio; otherwise as `sync_channel`."""
    peer.require_tls_or_loopback()
    options = channel_options(peer.address, max_receive_bytes)
    if peer.tls is None:
        return grpc.aio.insecure_channel(peer.address, options)
    return grpc.aio.secure_channel(peer.address, channel_credentials(peer.tls), options)
