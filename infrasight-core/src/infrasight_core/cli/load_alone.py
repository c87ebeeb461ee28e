"""A load test that records in this process: no agent, no server."""

import platform
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from attrs import frozen
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.cli.load_generator import Load
from infrasight_core.cli.load_processes import LoadProcesses
from infrasight_core.cli.load_result import CallCost, Latency, LoadResult, Order
from infrasight_core.console.streams import report
from infrasight_core.errors import InfraSightError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.arrays import view
from infrasight_core.plugin.manager import PluginManager

_SAMPLED = 100_000  # events whose latency is stored
_FASTEST_RATE = 1_000_000
_LONGEST_WAIT = 10.0  # seconds until the last events are read
_POLL_SECONDS = 0.01


class _Received(Sink):
    """Counts what the recorder delivers, and measures when.

    Attributes:
        rows: Events so far.
        dropped: Drained events that were dropped, by reason.
        delays: The milliseconds from the end of the call to the batch, of every nth event.

    Args:
        every: That n.
    """

    def __init__(self, every: int) -> None:
        self.rows = 0
        self.dropped: Counter[str] = Counter()
        self.delays: list[float] = []
        self._every = every

    def put(self, delivery: Delivery) -> bool:
        """Counts a batch."""
        batch = delivery.batch
        self.rows += batch.num_rows
        began = view(batch["time"].cast("int64"))[:: self._every]
        took = view(batch["duration_ns"])[:: self._every].astype(np.int64)
        self.delays += ((time.time_ns() - began - took) / 1e6).tolist()
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Ignores accounts: the counters of the blocks say the same."""

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts dropped events."""
        self.dropped[reason] += events

    def publish(self, containers: Sequence[Container]) -> None:
        """Ignores container updates."""


@frozen
class _Round:
    """One unrecorded and one recorded load.

    Attributes:
        unrecorded: The load that was not recorded.
        recorded: The load that was.
        reader_ns: The CPU time of the reader for it, in nanoseconds.
        skipped: Runs of the probe's programs that the kernel skipped meanwhile.
    """

    unrecorded: Load
    recorded: Load
    reader_ns: int
    skipped: int


def measure_alone(
    order: Order, processes: LoadProcesses, settings: LoadSettings, notes: Sequence[str]
) -> LoadResult:
    """Alternates unrecorded and recorded events, and accounts for every recorded one.

    Only the events of these processes are recorded, so that all counters count them alone.

    Args:
        order: The load.
        processes: Make it.
        settings: How to load programs.
        notes: What the reader must know about the figures.

    Raises:
        InfraSightError: The probe cannot be attached, or the recorder failed.
    """
    expected = (order.rate or _FASTEST_RATE) * order.seconds
    received = _Received(every=max(1, int(expected / _SAMPLED)))
    plugins = PluginManager.discover([order.probe])
    recorder = Recorder(plugins, settings, platform.node(), received)
    recorder.start()
    try:
        rounds = []
        for number in range(1, order.rounds + 1):
            report(f"round {number} of {order.rounds}; Ctrl-C ends without a result")
            rounds.append(_round(order, processes, recorder, received))
    finally:
        recorder.stop()
    made = sum(each.recorded.made for each in rounds)
    dropped = {reason: events for reason, events in received.dropped.items() if events}
    call = CallCost(
        unrecorded_ns=_median_ns([each.unrecorded for each in rounds]),
        recorded_ns=_median_ns([each.recorded for each in rounds]),
    )
    reader_ns = sum(each.reader_ns for each in rounds)
    if dropped:
        notes = [*notes, "A dropped event costs its call less: more --memory drops fewer."]
    if skipped := sum(each.skipped for each in rounds):
        notes = [*notes, f"The kernel skipped {skipped:,} runs of the probe's programs."]
    return LoadResult(
        order=order,
        made=made,
        made_per_second=round(made / sum(each.recorded.seconds for each in rounds), 1),
        recorded=received.rows,
        dropped=dropped,
        cpu_us={"reader": round(reader_ns / 1000 / max(received.rows, 1), 3)},
        latency=Latency.of("until they are in a batch", received.delays),
        call=call,
        notes=notes,
    )


def _round(
    order: Order, processes: LoadProcesses, recorder: Recorder, received: _Received
) -> _Round:
    seconds = order.seconds / order.rounds
    unrecorded = _run(processes, order.rate, seconds)
    with _attached(recorder, order.probe, processes.name):
        clock = recorder.cpu_clock()
        before = time.clock_gettime_ns(clock)
        recorded = _run(processes, order.rate, seconds)
        _wait_until_read(recorder, order.probe)
        reader_ns = time.clock_gettime_ns(clock) - before
        return _Round(unrecorded, recorded, reader_ns, recorder.loaded(order.probe).skipped_runs())


def _run(processes: LoadProcesses, rate: float, seconds: float) -> Load:
    processes.begin(rate, seconds)
    return processes.finish()


@contextmanager
def _attached(recorder: Recorder, probe: str, comm: str) -> Iterator[None]:
    """Records the events of threads of one name, with all trackers, for as long as it lasts."""
    attach_all(recorder, {probe: ProbeSettings(filters=Filters(include_comm=(comm,)))})
    try:
        yield
    finally:
        recorder.detach(probe)
        for tracker in recorder.running().trackers:
            recorder.detach_tracker(tracker)


def _wait_until_read(recorder: Recorder, probe: str) -> None:
    """Waits until the recorder's thread has read every event, so that its CPU time is complete.

    Raises:
        InfraSightError: The recorder failed.
    """
    deadline = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < deadline:
        if recorder.failure is not None:
            raise InfraSightError(f"the recorder failed: {recorder.failure!r}")
        counts = recorder.counts()[probe]
        if counts.read >= counts.submitted:
            return
        time.sleep(_POLL_SECONDS)


def _median_ns(loads: Sequence[Load]) -> float:
    return round(statistics.median(load.cpu_ns / max(load.made, 1) for load in loads), 1)
