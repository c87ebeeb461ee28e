"""A few connections to the store, each used by one thread at a time."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CONNECTIONS = 4
"""How many statements of each kind run at once; a further one waits."""


class Connections:
    """Connections of one kind, opened when first needed.

    Args:
        connect: Opens one: a client with a method `close`.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put(None)

    @contextmanager
    def one(self) -> Iterator[Any]:
        """A client for one statement; waits until one is idle."""
        client = self._idle.get()
        try:
            client = client or self._connect()
            yield client
        finally:
            self._idle.put(client)

    def close(self) -> None:
        """Closes those that are idle."""
        while not self._idle.empty():
            client = self._idle.get_nowait()
            if client is not None:
                client.close()
