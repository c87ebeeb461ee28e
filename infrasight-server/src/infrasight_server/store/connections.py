"""A pool of connections to the store, each used by one thread at a time."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CONNECTIONS = 4
"""The number of statements of each kind that run at once; further ones wait."""


class Connections:
    """Connections of one kind, each opened when it is first needed.

    Args:
        connect: Opens a connection and returns its client, which has a method `close`.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put(None)

    @contextmanager
    def acquire(self) -> Iterator[Any]:
        """Waits for an idle connection and yields its client for one statement."""
        client = self._idle.get()
        try:
            client = client or self._connect()
            yield client
        finally:
            self._idle.put(client)

    def close(self) -> None:
        """Closes the idle connections."""
        while not self._idle.empty():
            client = self._idle.get_nowait()
            if client is not None:
                client.close()
