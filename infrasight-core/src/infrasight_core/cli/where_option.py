"""The option `--where`, which every command with live events has."""

from collections.abc import Callable

import click


def where_option(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--where`, whose values the command receives as `conditions`."""
    return click.option(
        "--where",
        "conditions",
        multiple=True,
        metavar="COLUMN=VALUE",
        help="Show only events with this uid=, pid= or comm= (which may contain * ?). "
        "Can be repeated: all conditions must match.",
    )(command)
