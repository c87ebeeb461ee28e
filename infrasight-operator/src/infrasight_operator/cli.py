"""The entry point of `infrasight-operator`; imports next to nothing, see `console.entry`."""

from typing import TYPE_CHECKING, NoReturn

from infrasight_core.console.entry import run

if TYPE_CHECKING:
    import click


def main() -> NoReturn:
    """Runs `infrasight-operator` with the arguments of this process."""
    run("infrasight-operator", _load)


def _load() -> "click.Command":
    from infrasight_operator.command import operator

    return operator
