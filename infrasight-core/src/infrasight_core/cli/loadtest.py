"""`infrasight loadtest`: what recording costs on this machine."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from infrasight_core.cli.format import write_objects
from infrasight_core.cli.format_option import default_format, format_option
from infrasight_core.cli.loading_options import LoadingOptions, loading_options
from infrasight_core.cli.server_options import server_options
from infrasight_core.console.entry import EXIT_STATUSES, FAILED
from infrasight_core.console.streams import report
from infrasight_core.errors import ConfigError

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = f"""\b
Examples:
  sudo infrasight loadtest                                opens, with or without an agent
  sudo infrasight loadtest --alone --probe execve --rate 2000
  sudo infrasight loadtest --alone --rate 0 --processes 2     how much is too much?
  sudo infrasight loadtest --server db.example:7443 --tls-certificate reader.pem ...
  sudo infrasight loadtest --format json | jq .call.added_ns

\b
The events are the probe's canary: an operation that fails, such as an open() of
/dev/null/x. It is made in Python: one process with a CPU to itself makes up to some 200,000
opens a second. Raise --processes, not only --rate, for more.

\b
Without an agent, or with --alone, this command records the events itself, as `infrasight
trace` does. Rounds with and without recording alternate, which shows what a call pays:
  call, not recorded    CPU time of a call in the program that makes it, Python's included
  call, recorded        the same while the probe records it
  CPU of the reader     of reading the events from the kernel and enriching them
Only these events are recorded, by a filter of their thread's name, which costs each some
nanoseconds. Attaching the probe takes a second or more in each round.

\b
With an agent, the events take the whole way to the store, and queries look for them:
  recorded, dropped     rows in the store, and the agent's accounts of dropped events
  CPU                   of agent, server and store where they run on this machine, with all
                        that they do besides
  latency               from an event to the answer of a query that has its row

\b
The status is 1 if an event is missing: made, but neither recorded nor dropped.

{EXIT_STATUSES}"""


@click.command("loadtest", epilog=EPILOG)
@click.option(
    "--probe", default="open", show_default=True, metavar="PROBE", help="Whose events to make."
)
@click.option(
    "--rate",
    default=10_000,
    show_default=True,
    type=click.FloatRange(0, 10_000_000),
    metavar="EVENTS",
    help="Events per second; 0 for as many as possible.",
)
@click.option(
    "--seconds",
    default=10,
    show_default=True,
    type=click.FloatRange(0.1, 86400),
    metavar="SECONDS",
    help="How long events are made while they are recorded.",
)
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(1, 1000),
    metavar="ROUNDS",
    help="In how many parts, with unrecorded ones between them. Not used with an agent.",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    metavar="PROCESSES",
    help="How many processes make the events.",
)
@click.option(
    "--alone", is_flag=True, help="Record in this process, even if an agent runs on this machine."
)
@loading_options
@click.option(
    "--agent-pid",
    type=click.IntRange(1),
    metavar="PID",
    help="The agent whose CPU time to measure.  [the only one that records the probe]",
)
@click.option(
    "--server-pid",
    type=click.IntRange(1),
    metavar="PID",
    help="The server whose CPU time to measure.  [the one behind the server's Unix socket]",
)
@format_option()
@server_options
def command(
    probe: str,
    rate: float,
    seconds: float,
    rounds: int,
    processes: int,
    alone: bool,
    loading: LoadingOptions,
    agent_pid: int | None,
    server_pid: int | None,
    output_format: str | None,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Make events at a known rate, account for each of them, and measure what they cost.

    An agent that runs on this machine records the events and sends them to --server. Without one,
    this command records them. It needs root, unless --server is given.
    """
    if alone and (agent_pid or server_pid):
        raise click.UsageError("--alone measures neither an agent nor a server")
    # Imported here: they import NumPy and pyarrow, which `--help` does not need.
    from infrasight_core.cli.load_alone import measure_alone
    from infrasight_core.cli.load_generator import canary_of
    from infrasight_core.cli.load_parts import find_parts
    from infrasight_core.cli.load_processes import load_processes
    from infrasight_core.cli.load_result import Order
    from infrasight_core.cli.load_stored import measure_stored
    from infrasight_core.cli.program_owners import recording_processes

    order = Order(probe, rate, seconds, rounds, processes)
    canary = canary_of(probe)
    recording = recording_processes() if os.geteuid() == 0 else {}
    agents = [pid for pid, plugins in recording.items() if probe in plugins]
    if (alone or not server) and os.geteuid() != 0:
        raise ConfigError("only root may record: use sudo, or name the --server of an agent")
    with load_processes(probe, processes) as load:
        if alone or not (server or agent_pid or agents):
            notes = []
            if agents:
                notes.append(
                    f"Processes {', '.join(map(str, agents))} record as well: calls that are not "
                    "recorded here are recorded there, and cost more than unrecorded ones."
                )
            result = measure_alone(order, load, loading.settings(), notes)
        else:
            parts = find_parts(server, agent_pid, server_pid, agents)
            with connect() as client:
                result = measure_stored(order, load, canary, client, parts)
    if (output_format or default_format()) == "json":
        write_objects([result.as_object()])
    else:
        result.print_table()
    if result.missing:
        report(f"infrasight: {result.missing:,} events are neither recorded nor dropped")
        click.get_current_context().exit(FAILED)
