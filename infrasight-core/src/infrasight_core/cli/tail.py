"""`infrasight tail`: events as a server stores them."""

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click
import pyarrow as pa

from infrasight_core.cli.format_option import format_option
from infrasight_core.cli.live_view import EventView, event_view
from infrasight_core.cli.server_options import server_options
from infrasight_core.cli.shutdown import stop_event
from infrasight_core.cli.where import Where
from infrasight_core.cli.where_option import where_option
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.streams import utf8_argument
from infrasight_core.errors import TransportError

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = f"""\b
Examples:
  infrasight tail                             the events of every probe
  infrasight tail execve --where uid=0        what root executes
  infrasight tail execve --where 'comm=ba*' | jq -c '[.time, .argv]'

\b
It runs until Ctrl-C, SIGTERM or the end of the pipe. While the server is unavailable it
waits and reconnects; the events of that time are in the tables: use `infrasight query`.

{EXIT_STATUSES}"""
_WAITING_UPDATES = 16
_POLL_SECONDS = 0.1

Update = tuple[str, pa.Table, int]


@click.command("tail", epilog=EPILOG)
@click.argument("probes", metavar="[PROBE]...", nargs=-1)
@where_option
@format_option()
@server_options
def command(
    probes: tuple[str, ...],
    conditions: tuple[str, ...],
    output_format: str | None,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Show events as a server stores them, from now on."""
    where = Where.parse(conditions)
    as_table = None if output_format is None else output_format == "table"
    names = [utf8_argument(probe) for probe in probes]
    with stop_event() as stop, connect() as client, event_view(as_table) as view:
        for probe, rows, dropped in _Subscription(client, names, view, stop).updates():
            view.add([(probe, where.apply(rows))], dropped)


class _Subscription:
    """Reads from the server in its own thread, so that the main thread can stop at any time."""

    def __init__(
        self, client: "ServerClient", probes: Sequence[str], view: EventView, stop: threading.Event
    ) -> None:
        self._client = client
        self._probes = probes
        self._view = view
        self._stop = stop
        self._queue: queue.Queue[Update | Exception] = queue.Queue(_WAITING_UPDATES)

    def updates(self) -> Iterator[Update]:
        """Yields events until the command is stopped. Raises what the reading thread raised."""
        threading.Thread(target=self._read, name="subscription", daemon=True).start()
        while not self._stop.is_set():
            try:
                update = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(update, Exception):
                raise update
            yield update

    def _read(self) -> None:
        try:
            for update in self._client.watch(self._probes, self._report_unavailable):
                self._put(update)
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._put(error)

    def _put(self, update: Update | Exception) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(update, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def _report_unavailable(self, reason: TransportError, seconds: float) -> None:
        if self._stop.is_set():
            raise reason
        self._view.say(f"{reason}; trying again in {math.ceil(seconds)} s")
