"""`infrasight trace`: events of this machine, without a server."""

import contextlib
import platform
import queue
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pyarrow as pa
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.agent.attach import attach_all
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.cli.live_view import event_view
from infrasight_core.cli.shutdown import stop_event
from infrasight_core.cli.where import Where
from infrasight_core.errors import InfraSightError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager

_WAITING_BATCHES = 256


class _Screen(Sink):
    """Takes batches from the recorder's thread for the one that shows them."""

    def __init__(self) -> None:
        self.batches: queue.Queue[Delivery] = queue.Queue(_WAITING_BATCHES)
        self.events = 0
        self.lost: Counter[str] = Counter()

    def put(self, delivery: Delivery) -> bool:
        """Keeps a batch to be shown; where the terminal is too slow, counts it instead."""
        try:
            self.batches.put_nowait(delivery)
        except queue.Full:
            self.count_dropped(delivery.probe, "display_full", delivery.batch.num_rows)
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Lets it go: losses are told as they come, and at the end."""

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts."""
        self.lost[f"{probe}: {reason}"] += events

    def publish(self, containers: Sequence[Container]) -> None:
        """Shows none."""


@click.command()
@click.argument("probes", nargs=-1, metavar="[PROBE]…")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="uid=, pid= or comm= (with * ?); all must hold.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="KIND=VALUE",
    help="Record only these: pid=, uid=, comm=, cgroup= or path=.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="KIND=VALUE",
    help="Do not record these; goes before --include.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    help="Default: table on a terminal, json in a pipe.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="MIB",
    help="For the blocks of one probe, over all CPUs.",
)
@click.option(
    "--python",
    default="/usr/bin/python3",
    show_default=True,
    help="A Python that has bcc.",
    envvar="INFRASIGHT_LOADER_PYTHON",
)
def command(
    probes: tuple[str, ...],
    conditions: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    form: str | None,
    memory: int,
    python: str,
) -> None:
    """Show what happens on this machine, as it happens; needs root, but no server.

    PROBE is one of `infrasight probes`; all installed ones by default. Ctrl-C ends.

    --include and --exclude decide in the kernel what is recorded: what fits one value of every kind that is included, and no
    excluded one. --where decides, of what is recorded, what is shown.

    \b
    Examples:
      infrasight trace execve
      infrasight trace execve --where uid=0 --where 'comm=ba*'
      infrasight trace execve --include uid=1000 --exclude comm=cron --exclude path=/usr/lib/
      infrasight trace execve | jq -r '[.pid, .comm, (.argv | join(" "))] | @tsv'
    """
    screen, where, filters = _Screen(), Where.parse(conditions), Filters.parse(include, exclude)
    plugins = PluginManager.discover(probes or None)
    recorder = Recorder(
        plugins, LoadSettings(Path(python), memory << 20, own_work=False), platform.node(), screen
    )
    attach_all(plugins, recorder, {}, lambda probe: filters)
    recorder.start()
    click.echo(f"recording {', '.join(recorder.probes())}; Ctrl-C ends", err=True)
    with stop_event() as stop, event_view(None if form is None else form == "table") as view:
        while recorder.failure is None and not stop.is_set():
            _show(screen, where, view.add, 0.1)
        recorder.stop()
        while not screen.batches.empty():
            _show(screen, where, view.add, 0)
    lost = "; ".join(f"{events:,} lost ({reason})" for reason, events in screen.lost.items())
    click.echo(f"{screen.events:,} events, {lost or 'none lost'}", err=True)
    if recorder.failure:
        raise InfraSightError(f"the recorder failed: {recorder.failure!r}")


def _show(
    screen: _Screen, where: Where, add: Callable[[str, pa.Table], None], seconds: float
) -> None:
    with contextlib.suppress(queue.Empty):
        delivery = screen.batches.get(timeout=seconds) if seconds else screen.batches.get_nowait()
        screen.events += delivery.batch.num_rows
        rows = where.apply(pa.Table.from_batches([delivery.batch]))
        if rows.num_rows:
            add(delivery.probe, rows)
