"""Accounts: what became of the events of a run of a probe, so that a query can show that nothing is missing.

The numbers lie beside the events' own way: an account travels with each batch, and by itself where there is no batch. Each
counts from the beginning of its window, so that the newest one of a window holds all that the others said.
"""

from attrs import asdict
from infrasight.v1.stream_pb2 import Account

from infrasight_core.kernel.block import Counts

WINDOW_SECONDS = 60
COUNTED = tuple(
    name
    for name in Account.DESCRIPTOR.fields_by_name
    if name not in ("run", "window", "number", "ended")
)


def window_at(seconds: float) -> int:
    """The window that a moment of wall-clock time belongs to."""
    return int(seconds // WINDOW_SECONDS)


class RunAccount:
    """The account of one run.

    Attributes:
        run: The run's name.
        window: The window that is open.
        decode_failed: Events that a plugin failed at, since the run began.
        outbox_full: Events that found no room in the agent, since the run began.

    Args:
        run: The run's name.
        seconds: Wall-clock time.
    """

    def __init__(self, run: str, seconds: float) -> None:
        self.run, self.window = run, window_at(seconds)
        self.decode_failed = self.outbox_full = 0
        self._begin = self._told = dict.fromkeys(COUNTED, 0)
        self._number = 0

    def tell(self, counts: Counts, skipped: int, ended: bool = False) -> Account | None:
        """The account as it stands; None where it says nothing new.

        Args:
            counts: Of the run's blocks.
            skipped: Runs of its programs that the kernel skipped.
            ended: Whether it is the last one.
        """
        now = {name: value for name, value in asdict(counts).items() if name in COUNTED}
        now |= {
            "waiting": counts.submitted - counts.read,
            "in_progress": counts.in_progress,
            "skipped": skipped,
        }
        now |= {"decode_failed": self.decode_failed, "outbox_full": self.outbox_full}
        if now == self._told and not ended:
            return None
        self._told = now
        self._number += 1
        since = {name: value - self._begin[name] for name, value in now.items()}
        return Account(run=self.run, window=self.window, number=self._number, ended=ended, **since)

    def open(self, window: int) -> None:
        """Begins the next window where the last account ended."""
        self.window, self._begin = window, self._told
