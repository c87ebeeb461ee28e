"""The four hooks of a plugin. They return values; the core performs the effects.

A plugin is a module with any of these as functions marked `@hookimpl`, a literal `infrasight_api = 1`, and an entry point in
the group `infrasight` whose name is the probe's name::

    [project.entry-points.infrasight]
    execve = "infrasight_probe_execve.plugin"

Hooks are called once, or once per batch; never per event.
"""

from collections.abc import Mapping
from typing import Any

import pluggy
import pyarrow as pa

from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.program import BpfProgram, Kernel
from infrasight_core.plugin.schema import EventSchema

ENTRY_POINT_GROUP = "infrasight"
API_VERSION = 1

hookspec = pluggy.HookspecMarker("infrasight")
hookimpl = pluggy.HookimplMarker("infrasight")


@hookspec(firstresult=True)
def schema() -> EventSchema:
    """What an event is: the protobuf message, the ClickHouse DDL.

    Called once by the agent and once by the server. Pure: it needs no root and no kernel.

    Example::

        @hookimpl
        def schema():
            return EventSchema(ExecveEvent, resources.files(__package__) / "execve_events.sql")
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """What to load into the kernel.

    Called by the agent at every start and re-configuration. It never touches the kernel itself. An enricher may have one, too,
    without a schema: a tracker, whose rows are no events, but what its ``decode`` is to know.

    :param kernel: the release, the machine and the number of possible CPUs.
    :param options: the probe's own table in the agent's configuration; raise ``ConfigError`` for what it does not know.

    Example::

        @hookimpl
        def load_bpf(kernel, options):
            return BpfProgram(
                resources.files(__package__) / "execve.bpf.c",
                attach=(Tracepoint("enter_execve", "syscalls:sys_enter_execve"),),
            )
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """The probe's columns that are not in the block as they are in the schema.

    Called by the agent per slice of a block, on that probe only. A probe whose block and schema agree has no decode. The
    views that `columns` gives are valid only during the call: return what Arrow owns (`columns.array` copies).

    Of a tracker, it is called before events that are later than the rows are enriched, and once when its program has been
    attached, if need be with no rows; it keeps what it wants to know and returns an empty mapping.

    :param columns: one slice: NumPy views of fixed-width columns, offsets and bytes of variable-length ones.
    :returns: Arrow arrays of `columns.rows` rows by name; columns not named are taken from the block as they are.

    Example::

        @hookimpl
        def decode(columns):
            return {"argv": columns.split("argv", 0)}
    """
    raise AssertionError("a specification is never called")


@hookspec
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Columns that can be known only outside the kernel.

    Called per batch for every plugin that has it, whatever the batch's probe, on the agent and on the server; return an
    empty mapping where there is nothing to add. The core's own plugins are called first, then the others by name. What has no
    column of its own goes into `tags` (`TAGS`), which are merged.

    :param batch: at least the columns filled so far.
    :param context: the side, the probe, the node, the plugin's own options.
    :returns: new or replaced columns of the schema, `batch.num_rows` rows each; null where the value could not be had, which
        the row's `quality` then says (`<column>_missing`), on the agent.

    Example::

        @hookimpl
        def enrich(batch, context):
            return {"user": names_of(batch["uid"])} if context.side == "agent" else {}
    """
    raise AssertionError("a specification is never called")
