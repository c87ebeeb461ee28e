"""What `infrasight trace` shows: holds recorded rows until they can be shown in order of time."""

import queue
import time
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.cli.where import Where

_WAITING_BATCHES = 256
# The recorder delivers an event at most 0.15 s after its call has returned.
_HOLD_SECONDS = 0.3


@define
class _Held:
    """Rows that wait for rows of other CPUs.

    Attributes:
        probe: The probe that recorded them.
        rows: The rows.
        received: When they came, on the monotonic clock.
    """

    probe: str
    rows: pa.Table
    received: float


class Display(Sink):
    """The recorder's sink: passes batches from the recorder's thread to the one that shows them.

    Attributes:
        events: Events received so far.
        dropped_events: Events dropped so far, by probe and reason.

    Args:
        where: Which events to show.
        hold_seconds: How long rows wait for earlier rows of other CPUs.
    """

    def __init__(self, where: Where, hold_seconds: float = _HOLD_SECONDS) -> None:
        self.events = 0
        self.dropped_events: Counter[str] = Counter()
        self._where = where
        self._hold_seconds = hold_seconds
        self._deliveries: queue.Queue[Delivery] = queue.Queue(_WAITING_BATCHES)
        self._held: list[_Held] = []

    def put(self, delivery: Delivery) -> bool:
        """Accepts a batch; counts it as dropped while the terminal is too slow."""
        try:
            self._deliveries.put_nowait(delivery)
        except queue.Full:
            self.count_dropped(delivery.probe, "display_full", delivery.batch.num_rows)
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Ignores accounts: dropped events are reported at the end."""

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts dropped events."""
        self.dropped_events[f"{probe}: {reason}"] += events

    def publish(self, containers: Sequence[Container]) -> None:
        """Ignores container updates: rows carry their container's names."""

    def receive(self, timeout: float) -> None:
        """Moves the delivered batches to those that are held, waiting for the first of them."""
        try:
            delivery = self._deliveries.get(timeout=timeout) if timeout else None
            while True:
                if delivery is not None:
                    self._hold(delivery)
                delivery = self._deliveries.get_nowait()
        except queue.Empty:
            return

    def due(self) -> list[tuple[str, pa.Table]]:
        """Removes and returns the rows that no earlier row of another CPU can precede."""
        now = time.monotonic()
        limit = pa.scalar(time.time_ns() - int(self._hold_seconds * 1e9), pa.timestamp("ns", "UTC"))
        due: list[tuple[str, pa.Table]] = []
        waiting: list[_Held] = []
        for held in self._held:
            # The wall clock can be set back; the monotonic clock limits how long rows wait.
            if now - held.received > self._hold_seconds:
                due.append((held.probe, held.rows))
                continue
            is_due = pc.less_equal(held.rows.column("time"), limit)
            early = held.rows.filter(is_due)
            if early.num_rows == 0:
                waiting.append(held)
                continue
            due.append((held.probe, early))
            late = held.rows.filter(pc.invert(is_due))
            if late.num_rows:
                waiting.append(_Held(held.probe, late, held.received))
        self._held = waiting
        return due

    def rest(self) -> list[tuple[str, pa.Table]]:
        """Removes and returns all rows that are held or delivered."""
        self.receive(0)
        rest = [(held.probe, held.rows) for held in self._held]
        self._held = []
        return rest

    def summary(self) -> str:
        """Returns how many events were recorded and dropped, as one line."""
        if not self.dropped_events:
            return f"{self.events:,} events, none dropped"
        reasons = [
            f"{events:,} dropped ({reason})" for reason, events in self.dropped_events.items()
        ]
        return f"{self.events:,} events, {'; '.join(reasons)}"

    def _hold(self, delivery: Delivery) -> None:
        self.events += delivery.batch.num_rows
        rows = self._where.apply(pa.Table.from_batches([delivery.batch]))
        if rows.num_rows:
            self._held.append(_Held(delivery.probe, rows, time.monotonic()))
