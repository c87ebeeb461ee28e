"""The command `infrasight`: the group in `group.py`, and one module for each subcommand.

This module imports next to nothing, because Ctrl-C ends the process silently only once
`console.entry.run` has prepared it.
"""

from typing import TYPE_CHECKING, NoReturn

from infrasight_core.console.entry import run

if TYPE_CHECKING:
    import click


def main() -> NoReturn:
    """Runs `infrasight` with the arguments of this process."""
    run("infrasight", _load)


def _load() -> "click.Command":
    from infrasight_core.cli.group import infrasight

    return infrasight
