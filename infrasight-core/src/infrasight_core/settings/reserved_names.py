"""Defines the names that no plugin may have, because settings and reports use them for others."""

from typing import Final

EVERY_PROBE: Final = "all"
"""The key of the agent's filters that apply to every probe."""
DISPATCHER: Final = "dispatcher"
"""The name of the dispatcher in accounts and reports."""
RESERVED_NAMES: Final = frozenset(
    {EVERY_PROBE, DISPATCHER, "any", "configuration", "default", "none", "state"}
)
"""The names that no plugin may have.

`configuration`, `dispatcher` and `state` stand for the agent itself in its reports; `any`,
`default` and `none` have no meaning yet. The definitions of the custom resources and the chart's
schema list the same names.
"""


def describe_reserved(name: str) -> str:
    """Returns why a plugin cannot have a reserved name, as part of an error message."""
    return f"{name!r} is a reserved word and names no plugin"
