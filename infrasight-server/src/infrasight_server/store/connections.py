"""A pool of connections to the store, each used by one thread at a time."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infrasight_server.store.client import Client

CONNECTIONS = 4
"""The number of statements of each kind that run at once; further ones wait."""


class Connections:
    """Connections of one kind, each opened when it is first needed.

    Args:
        connect: Opens a connection.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[Client | None] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put(None)

    @contextmanager
    def acquire(self) -> Iterator[Client]:
        """Waits for an idle connection and yields it for one statement.

        After a failure, or when the caller does not read the whole answer, the connection is
        closed: the next statement must not get the rest of this one's answer.
        """
        client = self._idle.get()
        usable = None
        try:
            client = client or self._connect()
            yield client
            usable = client
        finally:
            if usable is None and client is not None:
                client.close()
            self._idle.put(usable)

    def close(self) -> None:
        """Closes the idle connections."""
        while not self._idle.empty():
            client = self._idle.get_nowait()
            if client is not None:
                client.close()
