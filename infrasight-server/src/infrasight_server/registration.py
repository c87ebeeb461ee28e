"""Adds the service to a gRPC server, with parsers that bound what a request may cost."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import grpc.aio
from google.protobuf.message import DecodeError, Message
from infrasight.v1 import stream_pb2
from infrasight.v1.stream_pb2 import (
    QueryRequest,
    QueryResponse,
    StreamResponse,
    WatchRequest,
    WatchResponse,
)

from infrasight_server.ingest.requests import parse_request
from infrasight_server.limits import MAX_RPCS_BESIDE_STREAMS
from infrasight_server.service import EventService
from infrasight_server.settings import ServerSettings

_SERVICE: Final = stream_pb2.DESCRIPTOR.services_by_name["EventService"].full_name
_MAX_QUESTION_BYTES: Final = 256 << 10  # of Query and Watch
_MESSAGE_OVERHEAD: Final = 4 << 20  # so that a batch which is a little too large is answered
_MAX_METADATA_BYTES: Final = 8 << 10
_STREAMS_PER_CONNECTION: Final = 100

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler = Callable[[Any, _Context], Awaitable[None]]


def max_rpcs(settings: ServerSettings) -> int:
    """Returns how many calls a server runs at once; it rejects further ones."""
    return settings.max_streams + MAX_RPCS_BESIDE_STREAMS


def bounding_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Returns the options with which gRPC itself bounds what peers send."""
    return [
        ("grpc.max_receive_message_length", settings.max_batch_bytes + _MESSAGE_OVERHEAD),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
    ]


def register(service: EventService, server: grpc.aio.Server) -> None:
    """Adds the service to a server."""
    handlers = {
        "Stream": grpc.stream_stream_rpc_method_handler(
            service.Stream,
            request_deserializer=parse_request,
            response_serializer=StreamResponse.SerializeToString,
        ),
        "Query": grpc.unary_stream_rpc_method_handler(
            _bounded(service.Query),
            request_deserializer=_parser(QueryRequest),
            response_serializer=QueryResponse.SerializeToString,
        ),
        "Watch": grpc.unary_stream_rpc_method_handler(
            _bounded(_written(service.Watch)),
            request_deserializer=_parser(WatchRequest),
            response_serializer=WatchResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))


def _parser(message: type[Message]) -> Callable[[bytes], Message | str]:
    """Returns a parser, which returns why it does not parse a request."""

    def parse(data: bytes) -> Message | str:
        if len(data) > _MAX_QUESTION_BYTES:
            return f"the request has {len(data)} bytes, more than {_MAX_QUESTION_BYTES}"
        try:
            return message.FromString(data)
        except DecodeError as error:
            return f"unusable request: {error}"

    return parse


def _bounded(handler: Callable[[Any, _Context], Awaitable[None]]) -> _Handler:
    """Returns a handler that rejects what `_parser` does not parse."""

    async def handle(request: Message | str, context: _Context) -> None:
        if isinstance(request, str):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request)
        await handler(request, context)

    return handle


def _written(
    handler: Callable[[Any, _Context], AsyncIterator[Message]],
) -> Callable[[Any, _Context], Awaitable[None]]:
    """Returns a handler that writes the responses that an async generator yields."""

    async def handle(request: Message, context: _Context) -> None:
        async with aclosing(handler(request, context)) as responses:  # type: ignore[type-var]
            async for response in responses:
                await context.write(response)

    return handle
