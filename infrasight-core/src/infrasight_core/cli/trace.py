"""`infrasight trace`: events of this machine, without a server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from infrasight_core import logs
from infrasight_core.cli.agent_capabilities import loading_capabilities
from infrasight_core.cli.format_option import format_option
from infrasight_core.cli.loading_options import LoadingOptions, loading_options
from infrasight_core.cli.where_option import where_option
from infrasight_core.console import privileges
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.seccomp import DANGEROUS_CALLS
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.containers.runtimes import socket_exists
from infrasight_core.kernel.filters import Filters

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
_LOADING_CALLS = ("perf_event_open",)  # bpf(2) also reads the counters of loaded programs


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
@loading_options
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    metavar="LEVEL",
    help="debug, info, warning or error.",
)
def command(
    probes: tuple[str, ...],
    conditions: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    output_format: str | None,
    loading: LoadingOptions,
    log_level: str,
) -> None:
    """Show this machine's events as they happen; needs root, but no server.

    PROBE is a probe that `infrasight probes` lists; all installed probes by default.

    --include and --exclude are evaluated in the kernel. An event is recorded if it matches every
    kind of include filter that is set and no exclude filter. --where selects which of the
    recorded events are shown.

    Once it records, it keeps no right that it does not need any more.
    """
    filters = Filters.parse(include, exclude)
    logs.configure(log_level)
    needed = needed_capabilities()
    with ThreadPoolExecutor(1, "attach") as attaching:
        # Capabilities belong to threads. This one retains those for loading until it ends; all
        # other threads start without them.
        loaded_paths = _loaded_paths(loading.loader_python)
        retained = needed | loading_capabilities() | privileges.for_reading(loaded_paths)
        attaching.submit(privileges.drop_capabilities, retained).result()
        restriction = privileges.restrict(needed, DANGEROUS_CALLS, ending_threads=1)
        # Imported here: it imports NumPy and pyarrow, which start threads with the privileges of
        # now.
        from infrasight_core.cli.trace_session import TraceSession

        session = TraceSession(probes, filters, conditions, loading.settings())
        attaching.submit(session.attach).result()
    restriction.deny_more(_LOADING_CALLS).log()
    session.run(None if output_format is None else output_format == "table")


def needed_capabilities() -> dict[str, str]:
    """Returns the capabilities that `infrasight trace` needs once its probes run, and why."""
    needed = {"BPF": "reads the counters of its programs"}
    needed |= privileges.for_reading(_read_paths())
    sockets = filter(socket_exists, ContainerOptions().socket_paths())
    return needed | privileges.for_sockets(sockets)


def _read_paths() -> Iterator[Path]:
    """Yields what the command reads while it records."""
    yield from privileges.program_paths()
    yield from (Path("/etc/passwd"), Path("/etc/group"))


def _loaded_paths(python: Path) -> Iterator[Path]:
    """Yields what loading a probe reads."""
    yield Path("/sys/kernel/tracing")
    yield python
