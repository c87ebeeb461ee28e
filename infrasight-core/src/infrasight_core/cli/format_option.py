"""The option `--format`, which every command with rows has."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(*more: str, note: str = "") -> Callable[[Command], Command]:
    """Adds `--format`, whose value the command receives as `output_format`; None if not given.

    Args:
        more: Formats beside `table` and `json`.
        note: What the help says about them.
    """
    default = "[table on a terminal, json in a pipe]"
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json", *more]),
        help=f"{note}  {default}" if note else default,
    )


def default_format() -> str:
    """The format of a command without `--format`: a table on a terminal, JSON anywhere else."""
    return "table" if sys.stdout.isatty() else "json"
