"""InfraSight's core: what a plugin imports.

Everything that a probe or an enricher needs stands here; modules below are the agent's own and may change at any time.
"""

from infrasight_core.arrays import constant, map_distinct, numbers, strings
from infrasight_core.columns import Columns
from infrasight_core.context import EnrichContext
from infrasight_core.errors import ConfigError, InfraSightError, ProbeError, SchemaError
from infrasight_core.hookspecs import API_VERSION, hookimpl
from infrasight_core.program import BpfProgram, Kernel, Tracepoint
from infrasight_core.schema import EventSchema

__all__ = [
    "API_VERSION",
    "BpfProgram",
    "Columns",
    "ConfigError",
    "EnrichContext",
    "EventSchema",
    "InfraSightError",
    "Kernel",
    "ProbeError",
    "SchemaError",
    "Tracepoint",
    "constant",
    "hookimpl",
    "map_distinct",
    "numbers",
    "strings",
]
