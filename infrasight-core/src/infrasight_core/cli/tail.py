"""`infrasight tail`: events as a server stores them."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from infrasight_core.cli.live_view import event_view
from infrasight_core.cli.server_options import server_options
from infrasight_core.cli.shutdown import until_stopped
from infrasight_core.cli.where import Where
from infrasight_core.errors import TransportError

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = """\b
Examples:
  infrasight tail                             every probe's events
  infrasight tail execve --where uid=0        what root executes
  infrasight tail execve --where 'comm=ba*' | jq -c '[.time, .argv]'

\b
It goes on until Ctrl-C. If the server goes away it waits and comes back; what was stored
in the meantime is in the tables: ask with `infrasight query`.
"""


@click.command("tail", epilog=EPILOG)
@click.argument("probes", metavar="[PROBE]...", nargs=-1)
@click.option(
    "--where",
    "conditions",
    metavar="COLUMN=VALUE",
    multiple=True,
    help="uid=…, pid=… or comm=…; all must hold.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    help="[table on a terminal, json in a pipe]",
)
@server_options
def command(
    probes: tuple[str, ...],
    conditions: tuple[str, ...],
    form: str | None,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Show events as a server stores them, from now on."""
    where = Where.parse(conditions)
    as_table = None if form is None else form == "table"
    with until_stopped(), connect() as client, event_view(as_table) as view:

        def away(reason: TransportError, seconds: float) -> None:
            view.say(f"{reason}; trying again in {math.ceil(seconds)} s")

        for probe, rows, dropped in client.watch(probes, away):
            view.add(probe, where.apply(rows), dropped)
