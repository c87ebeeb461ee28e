"""Drains the blocks of one probe, keeps its account and hands its batches to the sink.

The recorder holds one `Recording` for each attached probe.
"""

import time

import pyarrow as pa
import structlog
from infrasight.v1.stream_pb2 import Account
from prometheus_client import Counter, Histogram

from infrasight_core.agent.accounts import RunAccount
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.kernel.block import Counts
from infrasight_core.kernel.loader import LoadedProbe
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.schema import EventSchema

log = structlog.get_logger(__name__)
SHORTEST_PAUSE = 0.005  # seconds between two looks at the blocks
LONGEST_PAUSE = 0.05
ACCOUNT_INTERVAL = 5.0  # seconds after which an account is sent without a batch
MOST_ROWS = 65536  # of a batch, so that its memory is bounded
_LONGEST_WAIT = 0.1  # seconds that an event may wait in its block for others
_FULL_ENOUGH = 0.25  # the share of a block that makes a batch worthwhile

EVENTS_READ = Counter("infrasight_events_read", "Events read from the kernel's blocks.", ["probe"])
EVENTS_FILTERED = Counter(
    "infrasight_events_filtered",
    "Events that a filter excluded, or that the agent or an embedded store here caused.",
    ["probe"],
)
BATCH_ROWS = Histogram(
    "infrasight_batch_rows",
    "Rows of each batch that the recorder read from the blocks.",
    ["probe"],
    buckets=(1, 10, 100, 1000, 10000, 100000),
)


class Recording:
    """A run of one probe, from its attachment until it is closed.

    One thread at a time uses it: the recorder's, and the one that detaches the probe after that.

    Attributes:
        loaded: The loaded probe.
        schema: Its schema.
        settings: Its current settings.

    Args:
        loaded: The loaded probe.
        schema: Its schema.
        settings: The settings with which it was loaded.
        sink: Receives its batches and accounts.
    """

    def __init__(
        self, loaded: LoadedProbe, schema: EventSchema, settings: ProbeSettings, sink: Sink
    ) -> None:
        now = time.time_ns()
        self.loaded = loaded
        self.schema = schema
        self.settings = settings
        self._sink = sink
        self._account = RunAccount(run=f"{now:x}", seconds=now / 1e9)
        self._account_sent = 0.0
        self._waiting_since: float | None = None
        self._fill_level = 0.0
        self._growth = 0.0  # of the fill level between the last two looks
        self._counted = {"filtered": 0, "block_full": 0, "heap_full": 0}
        self._seen = 0  # events whose outcomes are all counted

    @property
    def probe(self) -> str:
        """The name of the probe."""
        return self.loaded.name

    def counts(self) -> Counts:
        """Returns the counters of its blocks."""
        return self.loaded.blocks.counts()

    def is_due(self, now: float) -> bool:
        """Looks at the fill level: whether many events wait, or an event has waited for long.

        Args:
            now: The time of the monotonic clock, in seconds.
        """
        fill_level = self.loaded.blocks.fill_level()
        self._growth = fill_level - self._fill_level
        self._fill_level = fill_level
        if fill_level and self._waiting_since is None:
            self._waiting_since = now
        if fill_level >= _FULL_ENOUGH:
            return True
        # The next look may come LONGEST_PAUSE later.
        longest_wait = _LONGEST_WAIT - LONGEST_PAUSE
        return self._waiting_since is not None and now - self._waiting_since >= longest_wait

    def seconds_until_due(self, elapsed: float) -> float:
        """Estimates when many events will wait again.

        Args:
            elapsed: Seconds between the last two looks.
        """
        if self._fill_level >= _FULL_ENOUGH:
            return 0.0
        if self._growth <= 0:
            return LONGEST_PAUSE
        return (_FULL_ENOUGH - self._fill_level) * elapsed / self._growth

    def has_events(self) -> bool:
        """Returns whether an event waits in the blocks."""
        return self.loaded.blocks.fill_level() > 0

    def drain(self) -> Columns:
        """Copies waiting events out of the blocks, at most MOST_ROWS, and frees their slots."""
        columns = self.loaded.blocks.drain(MOST_ROWS)
        self._waiting_since = None
        self._fill_level = self.loaded.blocks.fill_level()
        if columns.rows:
            EVENTS_READ.labels(self.probe).inc(columns.rows)
            BATCH_ROWS.labels(self.probe).observe(columns.rows)
        return columns

    def deliver(self, batch: pa.RecordBatch, columns: Columns) -> None:
        """Hands a conforming batch to the sink, together with the account.

        Args:
            batch: The batch.
            columns: The drained columns of which it was made; they identify it.
        """
        run = f"{self._account.run}-{self._account.window}"
        batch_id = f"{run}-{columns.cpu[0]}-{columns.sequence[0]:x}"
        delivery = Delivery(batch_id, self.probe, self.schema, batch, self._report())
        if not self._sink.put(delivery):
            self._account.outbox_full += columns.rows

    def drop(self, columns: Columns, error: Exception) -> None:
        """Counts drained events as dropped because a plugin failed at them."""
        self._sink.count_dropped(self.probe, "decode_failed", columns.rows)
        self._account.decode_failed += columns.rows
        log.error(
            "events dropped",
            probe=self.probe,
            reason="decode_failed",
            events=columns.rows,
            error=str(error),
        )

    def begin_window_if_due(self) -> None:
        """Sends the account of a window that has ended, and begins the next one."""
        now = time.time()
        if self._account.has_ended(now):
            self._send_account()
            self._account.begin_window(now)

    def send_account_if_due(self, now: float) -> None:
        """Sends the account without a batch, every few seconds.

        Args:
            now: The time of the monotonic clock, in seconds.
        """
        if now - self._account_sent >= ACCOUNT_INTERVAL:
            self._send_account()
            self._account_sent = now

    def count(self) -> None:
        """Adds what the blocks have counted since the last call to the metrics."""
        if self.loaded.blocks.seen() == self._seen:
            return
        counts = self.counts()
        if not counts.in_progress:
            self._seen = counts.seen
        for reason, counted in self._counted.items():
            total: int = getattr(counts, reason)
            if total == counted:
                continue
            self._counted[reason] = total
            if reason == "filtered":
                EVENTS_FILTERED.labels(self.probe).inc(total - counted)
            else:
                self._sink.count_dropped(self.probe, reason, total - counted)

    def detach(self) -> None:
        """Detaches the probe's programs and waits some microseconds for their last run."""
        self.loaded.detach()
        deadline = time.monotonic() + LONGEST_PAUSE
        while self.counts().in_progress and time.monotonic() < deadline:
            time.sleep(0.001)

    def close(self) -> Counts:
        """Sends the last account, unloads the probe and returns its last counters."""
        self.count()
        counts = self.counts()
        self._send_account(ended=True)
        self.loaded.close()
        return counts

    def _report(self, ended: bool = False) -> Account | None:
        return self._account.report(self.counts(), self.loaded.skipped_runs(), ended)

    def _send_account(self, ended: bool = False) -> None:
        account = self._report(ended)
        if account is not None:
            self._sink.put_account(self.probe, account)
