"""InfraSight's core: what a plugin imports.

Everything that a probe or an enricher needs stands here; modules below are the agent's own and may change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infrasight_core.arrays import constant, map_distinct, map_distinct_lists, numbers, strings
    from infrasight_core.columns import Columns
    from infrasight_core.context import EnrichContext
    from infrasight_core.errors import ConfigError, InfraSightError, ProbeError, SchemaError
    from infrasight_core.hookspecs import API_VERSION, hookimpl
    from infrasight_core.plugin_options import options_of
    from infrasight_core.program import URING_FIELDS, BpfProgram, Kernel, KernelFunction, Tracepoint, socketcall, uring_points
    from infrasight_core.schema import EventSchema
    from infrasight_core.tags import TAGS

__all__ = [
    "API_VERSION",
    "TAGS",
    "URING_FIELDS",
    "BpfProgram",
    "Columns",
    "ConfigError",
    "EnrichContext",
    "EventSchema",
    "InfraSightError",
    "Kernel",
    "KernelFunction",
    "ProbeError",
    "SchemaError",
    "Tracepoint",
    "constant",
    "hookimpl",
    "map_distinct",
    "map_distinct_lists",
    "numbers",
    "options_of",
    "socketcall",
    "strings",
    "uring_points",
]

_HOMES = {
    "arrays": ("constant", "map_distinct", "map_distinct_lists", "numbers", "strings"),
    "columns": ("Columns",),
    "context": ("EnrichContext",),
    "errors": ("ConfigError", "InfraSightError", "ProbeError", "SchemaError"),
    "hookspecs": ("API_VERSION", "hookimpl"),
    "program": ("URING_FIELDS", "BpfProgram", "Kernel", "KernelFunction", "Tracepoint", "socketcall", "uring_points"),
    "plugin_options": ("options_of",),
    "schema": ("EventSchema",),
    "tags": ("TAGS",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: NumPy and pyarrow take half a second, which `--help` need not."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"infrasight_core.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
