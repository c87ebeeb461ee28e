"""The entry point of `infrasight-server`; imports next to nothing, see `console.entry`."""

from typing import TYPE_CHECKING, NoReturn

from infrasight_core.console.entry import run

if TYPE_CHECKING:
    import click


def main() -> NoReturn:
    """Runs `infrasight-server` with the arguments of this process."""
    run("infrasight-server", _load)


def _load() -> "click.Command":
    from infrasight_server.command import command

    return command
