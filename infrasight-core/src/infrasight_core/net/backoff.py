"""Computes how long to wait between attempts to reach another process."""

import random

_JITTER = (
    0.25  # the largest share of a pause that is left out, so that clients do not retry at once
)


class Backoff:
    """Pauses that double from attempt to attempt up to a limit, each up to a quarter shorter.

    The caller sleeps: `time.sleep`, `asyncio.sleep` and `Event.wait` all take the seconds.

    Args:
        first: Seconds of the first pause.
        longest: The limit in seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._pause = first

    def next_pause(self) -> float:
        """Returns the seconds until the next attempt, and doubles the pause after that one."""
        pause = self._pause * random.uniform(1 - _JITTER, 1)
        self._pause = min(self._pause * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Begins again with the first pause; called when an attempt has succeeded."""
        self._pause = self._first
