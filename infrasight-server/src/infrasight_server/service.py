"""The gRPC service: passes each call to its handler and translates errors into status codes."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc
from infrasight.v1.stream_pb2 import (
    QueryRequest,
    QueryResponse,
    StreamRequest,
    StreamResponse,
    WatchRequest,
    WatchResponse,
)
from infrasight.v1.stream_pb2_grpc import EventServiceServicer
from infrasight_core.errors import (
    AccessError,
    AuthenticationError,
    InfraSightError,
    LimitError,
    QueryError,
    StoreUnavailableError,
    TransportError,
)
from infrasight_core.net import ipc
from infrasight_core.net.call_guard import CallGuard, Context
from infrasight_core.net.identity import Identity, Role
from infrasight_core.net.peer_text import clean_text

from infrasight_server import metrics
from infrasight_server.ingest.agent_session import AgentSession
from infrasight_server.ingest.pipeline import IngestPipeline
from infrasight_server.ingest.requests import InvalidRequest
from infrasight_server.ingest.stream_limits import StreamLimits
from infrasight_server.query.pieces import pieces
from infrasight_server.query.query_runner import QueryRunner
from infrasight_server.query.watchers import Watchers
from infrasight_server.store.accounts import AccountTables

_STATUS: dict[type[InfraSightError], grpc.StatusCode] = {
    AccessError: grpc.StatusCode.PERMISSION_DENIED,
    AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    LimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TransportError: grpc.StatusCode.FAILED_PRECONDITION,
    QueryError: grpc.StatusCode.INVALID_ARGUMENT,
    StoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_NAMED_PROBES = 3


class EventService(EventServiceServicer):
    """Implements `infrasight.v1.EventService`.

    Attributes:
        guard: Admits the calls; its task ends those whose peer has lost its access.

    Args:
        pipeline: Accepts or rejects batches.
        accounts: Records accounts and rejected batches.
        queries: Runs queries.
        watchers: Publishes stored events.
        probes: The probes whose events the server stores.
        identify: Returns the peer of a call; raises AccessError.
        stream_limits: Bounds the number of streams and how long each lasts.
    """

    def __init__(
        self,
        pipeline: IngestPipeline,
        accounts: AccountTables,
        queries: QueryRunner,
        watchers: Watchers,
        probes: frozenset[str],
        identify: Callable[[Context], Identity],
        stream_limits: StreamLimits,
    ) -> None:
        self._pipeline = pipeline
        self._accounts = accounts
        self._queries = queries
        self._watchers = watchers
        self._probes = probes
        self.guard = CallGuard(identify)
        self._stream_limits = stream_limits
        self._sessions: set[AgentSession] = set()

    def stop(self) -> None:
        """Ends the Stream and Watch calls, each after its last answer."""
        for session in self._sessions:
            session.stop()
        self._watchers.end()

    async def Stream(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[StreamRequest | InvalidRequest], context: Context
    ) -> AsyncIterator[StreamResponse]:
        """Receives one agent's batches."""
        handler = partial(self._stream, request_iterator)
        try:
            async for response in self.guard.serve(context, handler, Role.AGENT, Role.AGENTS):
                yield response
        except InfraSightError as error:
            await _abort(context, error)

    async def Query(  # noqa: N802 - gRPC's name
        self, request: QueryRequest, context: Context
    ) -> None:
        """Runs one read-only statement."""

        async def send(piece: bytes) -> None:
            await context.write(QueryResponse(arrow=piece))

        try:
            identity = self.guard.admit(context, Role.READER)
            with self._queries.open_call(identity.name):
                try:
                    await self._queries.run(identity.name, request.sql, send)
                except InfraSightError as error:
                    await _abort(context, error)  # returns when the client has read it or left
        except InfraSightError as error:
            await _abort(context, error)

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: WatchRequest, context: Context
    ) -> AsyncIterator[WatchResponse]:
        """Sends events as they are stored."""
        handler = partial(self._watch, request, context)
        try:
            async for response in self.guard.serve(context, handler, Role.READER):
                yield response
        except InfraSightError as error:
            await _abort(context, error)

    async def _stream(
        self, requests: AsyncIterator[StreamRequest | InvalidRequest], identity: Identity
    ) -> AsyncIterator[StreamResponse]:
        session = AgentSession(self._pipeline, self._accounts, identity)
        self._sessions.add(session)
        lifetime = self._stream_limits.lifetime()
        end = None
        if math.isfinite(lifetime):
            end = asyncio.get_running_loop().call_later(lifetime, session.stop)
        try:
            with self._stream_limits.admit(identity), metrics.STREAMS.track_inprogress():
                async for response in session.run(requests):
                    yield response
        finally:
            self._sessions.remove(session)
            if end is not None:
                end.cancel()

    async def _watch(
        self, request: WatchRequest, context: Context, identity: Identity
    ) -> AsyncIterator[WatchResponse]:
        unknown = sorted(set(request.probes) - self._probes)
        if unknown:
            known = ", ".join(sorted(self._probes)) or "none"
            named = clean_text(", ".join(unknown[:_NAMED_PROBES]))
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"this server does not know probe {named}; it knows: {known}",
            )
        with self._watchers.watching(request.probes, identity.name) as watcher:
            # The metadata tells the client that from now on it gets every stored event.
            await context.send_initial_metadata(())
            while (watched := await watcher.next()) is not None:
                dropped = watched.dropped
                for piece in pieces(watched.rows):
                    body = await asyncio.to_thread(ipc.to_bytes, piece)
                    yield WatchResponse(probe=watched.probe, arrow=body, dropped=dropped)
                    dropped = 0


async def _abort(context: Context, error: InfraSightError) -> None:
    await context.abort(_STATUS.get(type(error), grpc.StatusCode.INTERNAL), str(error))
