"""Bounds the number of open streams, in all and of each agent, and how long each lasts."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from infrasight_core.errors import LimitError
from infrasight_core.net.identity import Identity

from infrasight_server.limits import MAX_STREAMS_PER_PEER
from infrasight_server.open_calls import OpenCalls


class StreamLimits:
    """The streams that are open now.

    Args:
        max_streams: The most streams of all agents.
        longest_seconds: How long a stream lasts at most; infinity for no bound.
    """

    def __init__(self, max_streams: int, longest_seconds: float) -> None:
        self._max_streams = max_streams
        self._longest_seconds = longest_seconds
        self._open = OpenCalls()

    def lifetime(self) -> float:
        """Returns how many seconds the next stream lasts, so that streams do not end together."""
        return self._longest_seconds * random.uniform(0.5, 1)

    @contextmanager
    def admit(self, identity: Identity) -> Iterator[None]:
        """Counts a stream of a peer while the body runs.

        Raises:
            LimitError: There are too many streams.
        """
        name = identity.name
        # One identity can be that of many nodes' agents, which only the common bound limits.
        if identity.node and self._open.of(name) >= MAX_STREAMS_PER_PEER:
            raise LimitError(
                f"{name} has {MAX_STREAMS_PER_PEER} streams already; an agent needs one"
            )
        if self._open.total() >= self._max_streams:
            raise LimitError(
                f"{self._max_streams} streams are open; increase the server's max_streams"
            )
        with self._open.count(name):
            yield
