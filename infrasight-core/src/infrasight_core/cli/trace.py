"""`infrasight trace`: events of this machine, without a server."""

import platform
import queue
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
from attrs import define
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.cli.format_option import format_option
from infrasight_core.cli.live_view import event_view
from infrasight_core.cli.shutdown import stop_event
from infrasight_core.cli.where import Where, where_option
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.streams import report
from infrasight_core.errors import InfraSightError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager

EPILOG = f"""\b
Examples:
  infrasight trace execve
  infrasight trace execve --where uid=0 --where 'comm=ba*'
  infrasight trace open --include uid=1000 --exclude comm=cron --exclude path=/usr/lib/
  infrasight trace execve | jq -r '[.pid, .comm, (.argv | join(" "))] | @tsv'

\b
It runs until Ctrl-C, SIGTERM or the end of the pipe, and then reports how many events it
recorded and dropped. An event appears when its system call has returned, at most half a
second later, in order of `time`; calls that take longer come out of order.

{EXIT_STATUSES}"""
_WAITING_BATCHES = 256
_POLL_SECONDS = 0.1
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

    def _hold(self, delivery: Delivery) -> None:
        self.events += delivery.batch.num_rows
        rows = self._where.apply(pa.Table.from_batches([delivery.batch]))
        if rows.num_rows:
            self._held.append(_Held(delivery.probe, rows, time.monotonic()))


@click.command("trace", epilog=EPILOG)
@click.argument("probes", nargs=-1, metavar="[PROBE]...")
@where_option
@click.option(
    "--include",
    multiple=True,
    metavar="KIND=VALUE",
    help="Record only matching events: pid=, uid=, comm=, cgroup= or path=.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="KIND=VALUE",
    help="Do not record matching events, even if --include matches.",
)
@format_option()
@click.option(
    "--memory",
    default=64,
    show_default=True,
    type=click.IntRange(1, 4096),
    metavar="MIB",
    help="Memory for the events of one probe, over all CPUs.",
)
@click.option(
    "--loader-python",
    default="/usr/bin/python3",
    show_default=True,
    envvar="INFRASIGHT_LOADER_PYTHON",
    show_envvar=True,
    metavar="FILE",
    help="The Python that has bcc.",
)
def command(
    probes: tuple[str, ...],
    conditions: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    output_format: str | None,
    memory: int,
    loader_python: str,
) -> None:
    """Show this machine's events as they happen; needs root, but no server.

    PROBE is a probe that `infrasight probes` lists; all installed probes by default.

    --include and --exclude are evaluated in the kernel. An event is recorded if it matches every
    kind of include filter that is set and no exclude filter. --where selects which of the
    recorded events are shown.
    """
    display = Display(Where.parse(conditions))
    filters = Filters.parse(include, exclude)
    plugins = PluginManager.discover(probes or None)
    settings = LoadSettings(Path(loader_python), memory << 20, own_work=False)
    recorder = Recorder(plugins, settings, platform.node(), display)
    as_table = None if output_format is None else output_format == "table"
    attach_all(recorder, dict.fromkeys(plugins.probes(), ProbeSettings(filters=filters)))
    with stop_event() as stop, event_view(as_table) as view:
        recorder.start()
        report(f"recording {', '.join(recorder.probes())}; Ctrl-C ends")
        while recorder.failure is None and not stop.is_set():
            display.receive(_POLL_SECONDS)
            view.add(display.due())
        recorder.stop()
        view.add(display.rest())
    report(_summary(display))
    if recorder.failure:
        raise InfraSightError(f"the recorder failed: {recorder.failure!r}")


def _summary(display: Display) -> str:
    if not display.dropped_events:
        return f"{display.events:,} events, none dropped"
    reasons = [
        f"{events:,} dropped ({reason})" for reason, events in display.dropped_events.items()
    ]
    return f"{display.events:,} events, {'; '.join(reasons)}"
