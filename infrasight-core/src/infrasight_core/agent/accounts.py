"""Builds the accounts of a run, which let a query show that no event is unaccounted for.

An account travels beside the events: with each batch, and by itself while there is no batch. Its
numbers count from the beginning of a window, so the newest account of a window replaces the others.
"""

from attrs import asdict
from infrasight.v1.stream_pb2 import Account

from infrasight_core.kernel.block import Counts

WINDOW_SECONDS = 60
_NOT_COUNTS = ("run", "window", "number", "ended")
_COUNTS = tuple(name for name in Account.DESCRIPTOR.fields_by_name if name not in _NOT_COUNTS)


def window_at(seconds: float) -> int:
    """Returns the window that contains a moment of wall-clock time, in seconds since the epoch."""
    return int(seconds // WINDOW_SECONDS)


class RunAccount:
    """The account of one run: its events by outcome, since the probe was loaded.

    Attributes:
        run: The name of the run.
        window: The current window.
        decode_failed: Events since the run began that a plugin failed to decode or enrich.
        outbox_full: Events since the run began for which the outbox had no room.

    Args:
        run: The name of the run.
        seconds: When it begins, in seconds since the epoch.
    """

    def __init__(self, run: str, seconds: float) -> None:
        self.run = run
        self.window = window_at(seconds)
        self.decode_failed = 0
        self.outbox_full = 0
        self._reported = dict.fromkeys(_COUNTS, 0)
        self._at_window_begin = self._reported
        self._number = 0

    def report(self, counts: Counts, skipped: int, ended: bool = False) -> Account | None:
        """Returns the account as of now, or None if nothing has changed since the last one.

        Args:
            counts: The counters of the run's blocks.
            skipped: Runs of its programs that the kernel skipped.
            ended: Whether this is the run's last account, which is never None.
        """
        now = {name: value for name, value in asdict(counts).items() if name in _COUNTS}
        now["waiting"] = counts.submitted - counts.read
        now["in_progress"] = counts.in_progress
        now["skipped"] = skipped
        now["decode_failed"] = self.decode_failed
        now["outbox_full"] = self.outbox_full
        if now == self._reported and not ended:
            return None
        self._reported = now
        self._number += 1
        in_window = {name: value - self._at_window_begin[name] for name, value in now.items()}
        return Account(
            run=self.run, window=self.window, number=self._number, ended=ended, **in_window
        )

    def has_ended(self, seconds: float) -> bool:
        """Returns whether the current window has ended.

        While the wall clock is behind where it has been, the window goes on: an account counts from
        its window's beginning, so that no window of a run may begin twice.

        Args:
            seconds: The wall clock, in seconds since the epoch.
        """
        return window_at(seconds) > self.window

    def begin_window(self, seconds: float) -> None:
        """Begins the window of a moment at the numbers of the last account."""
        self.window = window_at(seconds)
        self._at_window_begin = self._reported
