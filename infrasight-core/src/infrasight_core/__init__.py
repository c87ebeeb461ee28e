"""The public API of InfraSight's core: all names that a plugin imports.

Import these names from `infrasight_core` itself. The packages below it are internal and may
change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infrasight_core.errors import ConfigError, InfraSightError, PluginError, SchemaError
    from infrasight_core.plugin.arrays import (
        constant,
        map_distinct,
        map_distinct_lists,
        numbers,
        strings,
    )
    from infrasight_core.plugin.clock import boot_time_ns
    from infrasight_core.plugin.columns import Columns
    from infrasight_core.plugin.context import EnrichContext
    from infrasight_core.plugin.hookspecs import API_VERSION, hookimpl
    from infrasight_core.plugin.options import options_of
    from infrasight_core.plugin.program import (
        BpfProgram,
        Kernel,
        KernelFunction,
        SystemCall,
        Tracepoint,
        uring_points,
    )
    from infrasight_core.plugin.schema import EventSchema
    from infrasight_core.plugin.tags import TAGS

__all__ = [
    "API_VERSION",
    "TAGS",
    "BpfProgram",
    "Columns",
    "ConfigError",
    "EnrichContext",
    "EventSchema",
    "InfraSightError",
    "Kernel",
    "KernelFunction",
    "PluginError",
    "SchemaError",
    "SystemCall",
    "Tracepoint",
    "boot_time_ns",
    "constant",
    "hookimpl",
    "map_distinct",
    "map_distinct_lists",
    "numbers",
    "options_of",
    "strings",
    "uring_points",
]

_HOMES = {
    "errors": ("ConfigError", "InfraSightError", "PluginError", "SchemaError"),
    "plugin.arrays": ("constant", "map_distinct", "map_distinct_lists", "numbers", "strings"),
    "plugin.clock": ("boot_time_ns",),
    "plugin.columns": ("Columns",),
    "plugin.context": ("EnrichContext",),
    "plugin.hookspecs": ("API_VERSION", "hookimpl"),
    "plugin.options": ("options_of",),
    "plugin.program": (
        "BpfProgram",
        "Kernel",
        "KernelFunction",
        "SystemCall",
        "Tracepoint",
        "uring_points",
    ),
    "plugin.schema": ("EventSchema",),
    "plugin.tags": ("TAGS",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: `--help` need not wait for NumPy and pyarrow."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"infrasight_core.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the public names alone."""
    return sorted(__all__)
