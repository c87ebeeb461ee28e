"""`infrasight top`: what the kernel programs of InfraSight cost, program by program."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import attrs
import click
from attrs import frozen
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infrasight_core import logs
from infrasight_core.cli.format import write_objects
from infrasight_core.cli.format_option import default_format, format_option
from infrasight_core.cli.shutdown import stop_event
from infrasight_core.cli.table import Column, print_table
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.streams import printable, report
from infrasight_core.kernel.program_list import ProgramInfo, counting_runs, list_programs

if TYPE_CHECKING:
    from infrasight_core.cli.program_owners import Owner

EPILOG = f"""\b
Examples:
  sudo infrasight top --programs               watch until Ctrl-C
  sudo infrasight top --programs --once        one table, over two seconds
  sudo infrasight top --all --interval 10      programs of other tools, too
  sudo infrasight top | jq -r 'select(.cpu_percent > 1) | .program'

\b
Columns:
  PROBE    the probe or tracker; {"(shared)"} serves several
  RUNS/S   how often the program ran, per second
  NS/RUN   how long one run took on average, in nanoseconds
  CPU      its share of one CPU
  PID      the process that holds the program: an agent, or `infrasight trace`

\b
The kernel counts runs of all programs while this command runs, which adds some 20 ns to each.
A program that jumps to another one (a tail call) counts the other's time as its own. The cost
of reaching a program is in no figure: `infrasight loadtest` measures what a call pays.

{EXIT_STATUSES}"""
_COLUMNS = (
    Column("PROBE"),
    Column("PROGRAM"),
    Column("RUNS/S", is_number=True),
    Column("NS/RUN", is_number=True),
    Column("CPU", is_number=True),
    Column("PID", is_number=True),
)


@frozen
class ProgramUse:
    """What a program did in an interval.

    Attributes:
        probe: The probe or tracker that it belongs to.
        program: Its function.
        runs: How often it ran.
        runs_per_second: The same per second.
        ns_per_run: The average time of a run in nanoseconds; 0 without any.
        cpu_percent: Its share of one CPU.
        pid: The process that holds it; 0 if none was found.
        id: The kernel's number for it, as `bpftool prog` shows it.
    """

    probe: str
    program: str
    runs: int
    runs_per_second: float
    ns_per_run: float
    cpu_percent: float
    pid: int
    id: int


@click.command("top", epilog=EPILOG)
@click.option(
    "--programs",
    is_flag=True,
    help="Show BPF programs, one a line. It is the only view, and so the default.",
)
@click.option(
    "--all", "all_programs", is_flag=True, help="Also programs that are not InfraSight's."
)
@click.option("--once", is_flag=True, help="Print one interval and end, also on a terminal.")
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="How long to count before each table.",
)
@format_option()
def command(
    programs: bool, all_programs: bool, once: bool, interval: float, output_format: str | None
) -> None:
    """Show how often the kernel programs of InfraSight run, and how long they take; needs root.

    On a terminal the table is renewed until Ctrl-C. Anywhere else one is printed.
    """
    logs.configure("error")
    console = Console()
    is_live = output_format is None and console.is_terminal and not console.is_dumb_terminal
    with counting_runs():
        if is_live and not once:
            _watch(console, all_programs, interval)
            return
        (uses,) = islice(_measure(all_programs, interval, time.sleep), 1)
    if not uses:
        report(f"infrasight: {_nothing(all_programs)}")
    elif (output_format or default_format()) == "json":
        write_objects(attrs.asdict(use) for use in uses)
    else:
        print_table(console, _COLUMNS, [_cells(use) for use in uses])


def _measure(
    all_programs: bool, interval: float, wait: Callable[[float], object]
) -> Iterator[list[ProgramUse]]:
    """Yields the use of programs in each interval, the busiest first, until `wait` returns true."""
    # Imported here: plugins import pyarrow, which `--help` does not need.
    from infrasight_core.cli.program_owners import ProgramOwners

    owners = ProgramOwners()
    before = {program.number: program for program in list_programs()}
    began = time.monotonic()
    while not wait(interval):
        programs = list_programs()
        now = time.monotonic()
        uses = []
        for program in programs:
            owner = owners.of(programs)[program.number]
            if owner.plugin or all_programs:
                earlier = before.get(program.number, ProgramInfo(program.number, program.name))
                uses.append(_use(owner, program, earlier, now - began))
        yield sorted(uses, key=lambda use: (-use.cpu_percent, use.probe, use.program))
        before = {program.number: program for program in programs}
        began = now


def _use(owner: "Owner", program: ProgramInfo, earlier: ProgramInfo, seconds: float) -> ProgramUse:
    runs = program.runs - earlier.runs
    took = program.run_time_ns - earlier.run_time_ns
    return ProgramUse(
        probe=owner.plugin,
        program=owner.function,
        runs=runs,
        runs_per_second=round(runs / seconds, 1),
        ns_per_run=round(took / runs, 1) if runs else 0.0,
        cpu_percent=round(took / seconds / 1e7, 4),
        pid=owner.pid,
        id=program.number,
    )


def _watch(console: Console, all_programs: bool, interval: float) -> None:
    """Shows a live table until the user stops it."""
    waiting = Text(f"counting for {interval:g} s ...", "dim")
    with (
        stop_event() as stop,
        Live(waiting, console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        for uses in _measure(all_programs, interval, stop.wait):
            live.update(_view(uses, all_programs, console.height), refresh=True)


def _view(uses: Sequence[ProgramUse], all_programs: bool, height: int) -> Group:
    """The table and, below it, the sum; the busiest programs where not all fit."""
    if not uses:
        return Group(Text(_nothing(all_programs), "dim"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column.name, justify="right" if column.is_number else "left", no_wrap=True)
    for use in uses[: max(1, height - 2)]:
        table.add_row(*_cells(use))
    total = sum(use.cpu_percent for use in uses)
    return Group(table, Text(f"{len(uses)} programs, {total:.2f} % of one CPU; Ctrl-C ends", "dim"))


def _cells(use: ProgramUse) -> list[Text]:
    texts = (
        printable(use.probe or "-"),
        printable(use.program),
        f"{use.runs_per_second:,.0f}",
        f"{use.ns_per_run:,.0f}",
        f"{use.cpu_percent:.2f} %",
        str(use.pid or ""),
    )
    return [Text(text) for text in texts]


def _nothing(all_programs: bool) -> str:
    if all_programs:
        return "no BPF program is loaded on this machine"
    return "no BPF program of InfraSight is loaded here: does an agent record? (--all shows others)"
