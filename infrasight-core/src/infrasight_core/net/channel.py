"""Opens gRPC channels to a server or operator, for the agent's streams and for clients."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from queue import Empty, SimpleQueue

import grpc
import grpc.aio

from infrasight_core.errors import TransportError
from infrasight_core.net.address import Address
from infrasight_core.net.listener import needs_verification, verify_listener
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import TlsFiles

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_FIRST_RECONNECT_MS = 500
_LONGEST_RECONNECT_MS = 5_000
_CONNECT_SECONDS = 10.0
# A call on a channel that could not connect fails at once.
_SETTLED = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)


def server_options() -> list[tuple[str, int]]:
    """Returns the options that a gRPC server must set to serve these channels."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Without pings, the stream of a machine that vanished would never end.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
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

    Call `verify_channel` before each call.

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


def verify_channel(channel: grpc.Channel, peer: Peer) -> None:
    """Verifies the listener at an address of this machine; others are verified by TLS.

    Raises:
        TransportError: Nothing listens there.
        AuthenticationError: A user who is not trusted runs the listener.
    """
    if not needs_verification(peer):
        return
    verify_listener(peer)
    if Address.parse(peer.address).is_unix:
        return  # only trusted users can replace the socket
    # Another user may have taken the port just before the connection was made.
    is_settled = _await_settled(channel)
    if not is_settled:
        raise _no_answer(peer)
    verify_listener(peer)


def _await_settled(channel: grpc.Channel) -> bool:
    """Connects if necessary; returns whether the attempt ended in time.

    gRPC's thread that watches the channel fails loudly if the channel is closed while a request to
    connect is still open. It is therefore made only for an idle channel, and awaited.
    """
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    deadline = time.monotonic() + _CONNECT_SECONDS
    is_requested = False
    channel.subscribe(states.put)
    try:
        while True:
            state = states.get(timeout=max(deadline - time.monotonic(), 0))
            if state in _SETTLED:
                return True
            if state is grpc.ChannelConnectivity.IDLE and not is_requested:
                channel.subscribe(_ignore, try_to_connect=True)
                is_requested = True
    except Empty:
        return False
    finally:
        channel.unsubscribe(states.put)
        channel.unsubscribe(_ignore)


def _ignore(state: grpc.ChannelConnectivity) -> None:
    """The callback of a request to connect, whose outcome another callback gets."""


@asynccontextmanager
async def aio_channel(
    peer: Peer, max_receive_bytes: int = MAX_MESSAGE_BYTES
) -> AsyncIterator[grpc.aio.Channel]:
    """Opens a channel for asyncio whose listener is verified.

    Args:
        peer: See `sync_channel`.
        max_receive_bytes: See `sync_channel`.

    Raises:
        ConfigError: See `sync_channel`.
        TransportError: See `verify_channel`.
        AuthenticationError: See `verify_channel`.
    """
    peer.require_tls_or_loopback()
    options = channel_options(peer.address, max_receive_bytes)
    if peer.tls is None:
        channel = grpc.aio.insecure_channel(peer.address, options)
    else:
        channel = grpc.aio.secure_channel(peer.address, channel_credentials(peer.tls), options)
    async with channel:
        if needs_verification(peer):
            await _verify_aio_channel(channel, peer)
        yield channel


async def _verify_aio_channel(channel: grpc.aio.Channel, peer: Peer) -> None:
    """Does for an asyncio channel what `verify_channel` does."""
    await asyncio.to_thread(verify_listener, peer)
    if Address.parse(peer.address).is_unix:
        return
    try:
        await asyncio.wait_for(_wait_until_settled(channel), _CONNECT_SECONDS)
    except TimeoutError as error:
        raise _no_answer(peer) from error
    await asyncio.to_thread(verify_listener, peer)


async def _wait_until_settled(channel: grpc.aio.Channel) -> None:
    while (state := channel.get_state(try_to_connect=True)) not in _SETTLED:
        await channel.wait_for_state_change(state)


def _no_answer(peer: Peer) -> TransportError:
    return TransportError(f"UNAVAILABLE: {peer.address} does not answer")
