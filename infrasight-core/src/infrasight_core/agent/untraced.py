"""Counts operations that no program traces, beside the probes' own accounts.

The recorder calls it once a second.
"""

import time
from collections.abc import Mapping

from prometheus_client import Counter

from infrasight_core.agent.accounts import RunAccount
from infrasight_core.agent.recording import ACCOUNT_INTERVAL
from infrasight_core.agent.sink import Sink
from infrasight_core.kernel.block import Counts
from infrasight_core.settings.reserved_names import DISPATCHER

OPERATIONS_DROPPED = Counter(
    "infrasight_operations_dropped",
    "Operations of a recorded kind that no program traced, by the way they came: x32 or io_uring.",
    ["way"],
)


class UntracedOperations:
    """Counts untraced operations and sends the account of the dispatcher's share of them.

    The requests of io_uring are in the accounts of the probes that miss them.

    Args:
        sink: Receives the account.
    """

    def __init__(self, sink: Sink) -> None:
        now = time.time_ns()
        self._sink = sink
        self._account = RunAccount(run=f"{now:x}", seconds=now / 1e9)
        self._account_sent = 0.0
        self._counted: dict[str, int] = {}

    def count(
        self, totals: Mapping[str, int], skipped: int, now: float, ended: bool = False
    ) -> None:
        """Adds what is new to the metric and sends the account when it is due.

        Args:
            totals: Untraced operations since the recorder began, by the way they came.
            skipped: Runs of the dispatcher that the kernel skipped.
            now: The time of the monotonic clock, in seconds.
            ended: Whether the recorder ends.
        """
        for way, total in totals.items():
            added = total - self._counted.get(way, 0)
            if added:
                OPERATIONS_DROPPED.labels(way).inc(added)
            self._counted[way] = total
        has_window_ended = self._account.has_ended(time.time())
        if has_window_ended or now - self._account_sent >= ACCOUNT_INTERVAL or ended:
            counts = Counts(0, 0, 0, 0, 0, 0, 0, untraced=totals["x32"])
            account = self._account.report(counts, skipped, ended)
            if account is not None:
                self._sink.put_account(DISPATCHER, account)
            self._account_sent = now
        if has_window_ended:
            self._account.begin_window(time.time())
