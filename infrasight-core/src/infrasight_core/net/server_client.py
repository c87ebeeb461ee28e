"""Asking a server: queries, and events as they are stored."""

import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import grpc
import pyarrow as pa
from infrasight.v1.stream_pb2 import QueryRequest, WatchRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub

from infrasight_core.errors import (
    InfraSightError,
    QueryError,
    SchemaError,
    TransportError,
    UnknownProbeError,
)
from infrasight_core.net import ipc
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.channel import sync_channel
from infrasight_core.net.tls import TlsFiles

FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 10.0
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class ServerClient:
    """Reads from one server; a context manager. See `sync_channel` for the arguments and for what it raises."""

    def __init__(self, address: str, tls: TlsFiles | None = None, plaintext: bool = False) -> None:
        self._address = address
        self._channel = sync_channel(address, tls, plaintext)
        self._stub = EventServiceStub(self._channel)

    def __enter__(self) -> "ServerClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call."""
        self._channel.close()

    def query(self, sql: str) -> Iterator[pa.Table]:
        """The answer to one reading statement, piece by piece; the first comes even when there are no rows.

        Raises:
            QueryError: The server refused the statement, or the store could not answer it.
            TransportError: The server cannot be asked.
        """
        try:
            for response in self._stub.Query(QueryRequest(sql=sql)):
                yield self._table(response.arrow)
        except grpc.RpcError as error:
            raise self._explained(error, refused=QueryError) from error

    def watch(
        self,
        probes: Collection[str] = (),
        on_away: Callable[[TransportError, float], None] | None = None,
    ) -> Iterator[tuple[str, pa.Table, int]]:
        """The events of some probes as they are stored, without end: probe, rows, and how many were dropped before them.

        Args:
            probes: Their names; none for all.
            on_away: Called with the reason and the seconds until the next attempt when a server that had answered went away;
                without it that is raised.

        Raises:
            UnknownProbeError: The server has no such probe.
            TransportError: The server cannot be asked.
        """
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        answered = False
        while True:
            call: Any = self._stub.Watch(WatchRequest(probes=probes))
            try:
                if (
                    call.initial_metadata() is not None and call.is_active()
                ):  # waits until the server has taken the call
                    backoff.reset()
                    answered = True
                for response in call:
                    yield response.probe, self._table(response.arrow), response.dropped
                error: InfraSightError = TransportError(
                    f"the server at {self._address} ended the stream"
                )
                away = True
            except grpc.RpcError as reason:
                error, away = (
                    self._explained(reason, refused=UnknownProbeError),
                    reason.code() in _AWAY,
                )
            finally:
                call.cancel()
            if not (answered and away and on_away and isinstance(error, TransportError)):
                raise error
            seconds = backoff.next_pause()
            on_away(error, seconds)
            time.sleep(seconds)

    def _table(self, body: bytes) -> pa.Table:
        try:
            return ipc.from_bytes(body)
        except SchemaError as error:
            raise TransportError(
                f"the server at {self._address} sent what this version cannot read: {error}"
            ) from error

    def _explained(self, error: grpc.RpcError, refused: type[InfraSightError]) -> InfraSightError:
        """The error for people: why it is, and what to do."""
        code, details = error.code(), " ".join((error.details() or "no reason given").split())
        server = f"the server at {self._address}"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return TransportError(
                f"{server} is no InfraSight server, or one of another version: {details}"
            )
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return TransportError(f"{server} does not accept this certificate: {details}")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return TransportError(f"{server} sent more at once than a message may hold: {details}")
        if code not in _AWAY:
            return refused(details)
        return TransportError(f"{server} {_why_away(details)}")


def _why_away(details: str) -> str:
    """gRPC has one code for everything that keeps a call from being answered; only its words tell them apart."""
    why = re.sub(r"^\w+: ((ipv[46]|unix):\S+: )?", "", details.rsplit("last error: ", 1)[-1])
    if "Hostname Verification" in details or "not in peer certificate" in details:
        return "shows a certificate of another name: connect by a name that is in it, or give the server one with this name"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "shows a certificate that the given CA did not sign: check --tls-ca and the server's certificate"
    if "WRONG_VERSION_NUMBER" in details:
        return "does not speak TLS: leave the TLS files out, or start the server with its own"
    if "handshake" in details.lower():
        return f"refuses TLS: check that both sides' certificates are of the same CA ({why})"
    if "Socket closed" in details or "reset by peer" in details or "Broken pipe" in details:
        return f"closed the connection: if it does so at once, it wants TLS or a certificate that its CA signed ({why})"
    if "failed to connect" in details or "resolving" in details or "resolution" in details:
        return f"is not reachable: start it with `infrasight-server`, or name another with --server ({why})"
    return f"cannot answer now: {why}"
