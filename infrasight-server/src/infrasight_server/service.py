"""The gRPC service: turns calls into what the other modules do, and their errors into status codes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

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
    InfraSightError,
    QueryError,
    StoreUnavailableError,
    TransportError,
)
from infrasight_core.net import ipc

from infrasight_server import metrics
from infrasight_server.ingest.agent_session import AgentSession
from infrasight_server.ingest.intake import Intake
from infrasight_server.query.queries import Queries
from infrasight_server.query.watchers import Watchers
from infrasight_server.store.accounts import Accounts

_STATUS: dict[type[InfraSightError], grpc.StatusCode] = {
    TransportError: grpc.StatusCode.FAILED_PRECONDITION,
    QueryError: grpc.StatusCode.INVALID_ARGUMENT,
    StoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_Context = grpc.aio.ServicerContext[Any, Any]


class EventService(EventServiceServicer):
    """`infrasight.v1.EventService`."""

    def __init__(
        self,
        intake: Intake,
        accounts: Accounts,
        queries: Queries,
        watchers: Watchers,
        probes: frozenset[str],
    ) -> None:
        self._intake, self._accounts = intake, accounts
        self._queries, self._watchers, self._probes = queries, watchers, probes
        self._streams: set[AgentSession] = set()

    def stop(self) -> None:
        """Ends the calls that would last for ever, each after its last answer."""
        for stream in self._streams:
            stream.stop()
        self._watchers.end()

    async def Stream(  # noqa: N802
        self, request_iterator: AsyncIterator[StreamRequest], context: _Context
    ) -> AsyncIterator[StreamResponse]:
        """An agent's stream."""
        stream = AgentSession(self._intake, self._accounts)
        self._streams.add(stream)
        try:
            with metrics.STREAMS.track_inprogress():
                async for answer in stream.answers(request_iterator):
                    yield answer
        except InfraSightError as error:
            await _abort(context, error)
        finally:
            self._streams.remove(stream)

    async def Query(self, request: QueryRequest, context: _Context) -> AsyncIterator[QueryResponse]:  # noqa: N802
        """One reading statement."""
        try:
            async for piece in self._queries.answer(request.sql):
                yield QueryResponse(arrow=piece)
        except InfraSightError as error:
            await _abort(context, error)

    async def Watch(self, request: WatchRequest, context: _Context) -> AsyncIterator[WatchResponse]:  # noqa: N802
        """Events as they are stored."""
        if unknown := sorted(set(request.probes) - self._probes):
            known = ", ".join(sorted(self._probes)) or "none"
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"no probe {', '.join(unknown)} here; this server knows: {known}",
            )
        with self._watchers.watching(request.probes) as watcher:
            await context.send_initial_metadata(
                ()
            )  # now the watcher knows that nothing escapes it any more
            while (found := await watcher.next()) is not None:
                probe, rows, dropped = found
                body = await asyncio.to_thread(ipc.to_bytes, *rows.to_batches())
                yield WatchResponse(probe=probe, arrow=body, dropped=dropped)


async def _abort(context: _Context, error: InfraSightError) -> None:
    await context.abort(_STATUS.get(type(error), grpc.StatusCode.INTERNAL), str(error))
