"""The command `infrasight`. Each subcommand is a module of its own, imported when it is called."""

import difflib
import errno
import importlib
import os
import sys
from typing import Any

import click

from infrasight_core.errors import InfraSightError
from infrasight_core.version import version

COMMANDS = {
    "trace": "Show a probe's events of this machine as they happen; needs no server.",
    "agent": "Record this machine's events and send them to a server.",
    "packages": "Install what a cluster's operator wants beside the agent.",
    "tail": "Show events as a server stores them.",
    "query": "Ask a server with SQL.",
    "verify": "Prove that the store holds every event that the kernel saw.",
    "probes": "List the installed plugins and what is wrong with them.",
    "doctor": "Check whether this machine can record events, and say what to do.",
}
EPILOG = """\b
Examples:
  infrasight doctor                   can this machine record events?
  sudo infrasight trace execve        see them now, without a server
  infrasight-server                   store them …
  sudo infrasight agent               … from this machine
  infrasight tail execve --where uid=0
  infrasight query "SELECT time, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5"

\b
On a terminal the output is for people; in a pipe it is JSON, one object per line.
"""


class _Commands(click.Group):
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
            close = difflib.get_close_matches(name, COMMANDS, 2, 0.5)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"there are {', '.join(COMMANDS)}"
            )
            ctx.fail(f"no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(
            "Commands"
        ):  # from the list above, so that nothing is imported for --help
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except InfraSightError as error:
            click.echo(f"infrasight: {error}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            close_stdout()
            ctx.exit(0)  # whoever read has seen enough
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            close_stdout()
            click.echo(f"infrasight: cannot write the output: {error.strerror}", err=True)
            ctx.exit(1)
        return result


def close_stdout() -> None:
    """Lets Python write the rest of its buffer to nowhere, so that it does not complain when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@click.group(
    cls=_Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(version(), message="%(prog)s %(version)s")
def main() -> None:
    """Kernel-level observability: what this machine's processes do, as rows that SQL can ask."""
    # A failed connection comes back as an error that we explain; gRPC's own lines beside it would only confuse.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from infrasight_core import logs

    logs.configure("warning")  # stdout is for the output
