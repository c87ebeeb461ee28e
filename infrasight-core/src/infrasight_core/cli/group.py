"""The click group of `infrasight`; imports a subcommand's module when the subcommand is called."""

import difflib
import importlib

import click

from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.version import version

COMMANDS = {
    "trace": "Show this machine's events as they happen; needs no server.",
    "agent": "Record this machine's events and send them to a server.",
    "packages": "Install the plugin packages that an operator assigns to this node.",
    "tail": "Show events as a server stores them.",
    "query": "Run an SQL statement on a server.",
    "verify": "Prove that the store holds every event that the kernel saw.",
    "loadtest": "Measure what recording costs on this machine: make events and account for each.",
    "top": "Show how often InfraSight's kernel programs run, and how long they take.",
    "certs": "Make a CA and certificates for trying out mutual TLS.",
    "probes": "List the installed plugins and their failures.",
    "doctor": "Check whether this machine can record events, and how to fix what fails.",
}
EPILOG = f"""\b
Examples:
  infrasight doctor                   can this machine record events?
  sudo infrasight trace execve        show program executions now, without a server
  infrasight-server                   store events ...
  sudo infrasight agent               ... that this machine records
  infrasight tail execve --where uid=0
  infrasight query "SELECT time, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5"

\b
On a terminal the output is a table; in a pipe or a file it is JSON, one object per line.

{EXIT_STATUSES}"""


class _Commands(click.Group):
    """Lists the subcommands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"infrasight_core.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            similar = difflib.get_close_matches(name, COMMANDS, 2, 0.5)
            if similar:
                hint = f"did you mean {' or '.join(similar)}?"
            else:
                hint = f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version(), message="%(prog)s %(version)s")
def infrasight() -> None:
    """Kernel-level observability: the system calls of this machine as rows that SQL can query."""
    from infrasight_core import logs

    logs.configure("warning")  # stdout is for the output
