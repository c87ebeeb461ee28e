"""Counts the calls that each peer has open."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class OpenCalls:
    """How many calls each peer has open; a peer without one takes no memory."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    def of(self, peer: str) -> int:
        """Returns how many calls a peer has open."""
        return self._calls[peer]

    def total(self) -> int:
        """Returns how many calls all peers have open."""
        return self._calls.total()

    @contextmanager
    def count(self, peer: str) -> Iterator[None]:
        """Counts one more call of a peer while the body runs."""
        self._calls[peer] += 1
        try:
            yield
        finally:
            self._calls[peer] -= 1
            if not self._calls[peer]:
                del self._calls[peer]
