"""Reads from a server: the results of queries, and events as the server stores them."""

import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import grpc
import pyarrow as pa
from infrasight.v1.stream_pb2 import QueryRequest, WatchRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub

from infrasight_core.errors import (
    AccessError,
    ConfigError,
    InfraSightError,
    QueryError,
    SchemaError,
    TransportError,
    UnknownProbeError,
)
from infrasight_core.net import ipc
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.channel import sync_channel, verify_channel
from infrasight_core.net.peer import Peer
from infrasight_core.net.peer_text import clean_text

_FIRST_PAUSE = 0.5  # seconds
_LONGEST_PAUSE = 10.0
_LONGEST_DETAILS = 4000  # characters; a parser's message quotes the statement
_UNAVAILABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


class _UnreachableError(TransportError):
    """No server listens at the address."""


class ServerClient:
    """Reads from one server; a context manager.

    Args:
        peer: The server.

    Raises:
        ConfigError: The address is malformed, the TLS files are unusable, or there is no TLS for a
            connection over the network.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._server = f"the server at {peer.address}"
        self._open()

    def __enter__(self) -> "ServerClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and closes the channel."""
        self._channel.close()

    def _open(self) -> None:
        self._channel = sync_channel(self._peer)
        self._stub = EventServiceStub(self._channel)

    def query(self, sql: str) -> Iterator[pa.Table]:
        """Yields the result of a read-only statement in pieces; without rows, one empty piece.

        Raises:
            QueryError: The server rejected the statement, or the store could not answer it.
            TransportError: The server cannot be reached, or its answer is not usable.
            AccessError: This client has not the role of a reader.
            AuthenticationError: A user who is not trusted listens at the address.
        """
        self._verify()
        metadata = self._peer.metadata()
        try:
            schema: pa.Schema | None = None
            for response in self._stub.Query(QueryRequest(sql=sql), metadata=metadata):
                piece = self._decode(response.arrow)
                schema = schema or piece.schema
                if piece.schema != schema:
                    raise TransportError(f"{self._server} changed the columns within an answer")
                yield piece
        except grpc.RpcError as error:
            raise self._translate(error, rejected=QueryError) from error
        if schema is None:
            raise TransportError(f"{self._server} ended its answer before it began")

    def watch(
        self,
        probes: Collection[str] = (),
        on_unavailable: Callable[[TransportError, float], None] | None = None,
    ) -> Iterator[tuple[str, pa.Table, int]]:
        """Yields events as the server stores them, without end.

        Args:
            probes: The names of the probes; none for all.
            on_unavailable: Called when a server that had answered becomes unavailable, with the
                reason and the seconds until the next attempt. Without it, the reason is raised.

        Yields:
            The probe, its rows, and how many rows were dropped before them.

        Raises:
            UnknownProbeError: The server does not have the probe.
            TransportError: The server cannot be reached.
            AccessError: This client has not the role of a reader.
            AuthenticationError: A user who is not trusted listens at the address.
        """
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        has_answered = False
        is_first = True
        while True:
            call: Any = None
            is_unavailable = True
            was_accepted = False
            try:
                if not is_first:
                    self.close()
                    self._open()  # reads the certificate again, which may have been renewed
                is_first = False
                call = self._start_watch(probes)
                # `initial_metadata` waits until the server has accepted the call.
                if call.initial_metadata() is not None and call.is_active():
                    backoff.reset()
                    has_answered = True
                    was_accepted = True
                for response in call:
                    yield response.probe, self._decode(response.arrow), response.dropped
                error: InfraSightError = TransportError(f"{self._server} ended the stream")
            except grpc.RpcError as rpc_error:
                error = self._translate(rpc_error, rejected=UnknownProbeError)
                has_expired = was_accepted and rpc_error.code() is grpc.StatusCode.UNAUTHENTICATED
                is_unavailable = has_expired or rpc_error.code() in _UNAVAILABLE
            except ConfigError as config_error:  # for instance TLS files that are being replaced
                error = TransportError(str(config_error))
            except _UnreachableError as unreachable:
                error = TransportError(str(unreachable))
            finally:
                if call is not None:
                    call.cancel()
            if on_unavailable is None or not isinstance(error, TransportError):
                raise error
            if not has_answered or not is_unavailable:
                raise error
            pause = backoff.next_pause()
            on_unavailable(error, pause)
            time.sleep(pause)

    def _verify(self) -> None:
        try:
            verify_channel(self._channel, self._peer)
        except TransportError as error:
            raise _UnreachableError(f"{self._server} {_why_unavailable(str(error))}") from error

    def _start_watch(self, probes: Collection[str]) -> Any:
        self._verify()
        return self._stub.Watch(WatchRequest(probes=probes), metadata=self._peer.metadata())

    def _decode(self, body: bytes) -> pa.Table:
        try:
            return ipc.from_bytes(body)
        except SchemaError as error:
            raise TransportError(
                f"{self._server} sent a table that this version cannot read: {error}"
            ) from error

    def _translate(self, error: grpc.RpcError, rejected: type[InfraSightError]) -> InfraSightError:
        """Returns an error that states the cause and the remedy.

        Args:
            error: The error of the call.
            rejected: The class for a request that the server rejected.
        """
        code = error.code()
        details = clean_text(error.details() or "no reason given", _LONGEST_DETAILS)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return TransportError(
                f"{self._server} is not an InfraSight server, or of another version: {details}"
            )
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return AccessError(f"{self._server} denies this: {details}")
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return TransportError(f"{self._server} does not accept this client: {details}")
        if code is grpc.StatusCode.INTERNAL and "deserializing" in details:
            return TransportError(f"{self._server} sent bytes that are not a message: {details}")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return TransportError(f"{self._server} sent a message that is too large: {details}")
        if code not in _UNAVAILABLE:
            return rejected(details)
        return TransportError(f"{self._server} {_why_unavailable(details)}")


def _why_unavailable(details: str) -> str:
    """Returns the cause and the remedy.

    gRPC has one code for everything that prevents an answer; only its text tells the causes apart.
    """
    last_error = details.rsplit("last error: ", 1)[-1]
    cause = re.sub(r"^\w+: ((ipv[46]|unix):\S+: )?", "", last_error)
    if "Hostname Verification" in details or "not in peer certificate" in details:
        return (
            "has a certificate for another name: connect to a name that the certificate lists, "
            "or give the server a certificate for this name"
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "has a certificate that the given CA did not sign: "
            "check --tls-ca and the server's certificate"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return "does not use TLS: omit the TLS files, or start the server with its own"
    if "handshake" in details.lower():
        return f"rejected the TLS handshake: check that one CA signed both certificates ({cause})"
    if "Socket closed" in details or "reset by peer" in details or "Broken pipe" in details:
        return (
            "closed the connection: if it does so at once, it requires TLS, "
            f"or a certificate that its CA signed ({cause})"
        )
    if any(words in details for words in ("connect to", "resolving", "resolution")):
        return (
            "is not reachable: start it with `infrasight-server`, "
            f"or name another with --server ({cause})"
        )
    return f"cannot answer now: {cause}"
