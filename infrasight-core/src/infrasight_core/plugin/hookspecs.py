"""Specifies the four hooks of a plugin. They return values; the core performs the effects.

A plugin is a module with a literal ``infrasight_api = 1`` and any of these functions, each marked
``@hookimpl``. Its entry point in the group ``infrasight`` has the probe's name::

    [project.entry-points.infrasight]
    execve = "infrasight_probe_execve.plugin"

A plugin with options declares an attrs class as ``infrasight_options``; see ``options_of``.

Hooks are called once, or once per batch, never per event.
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
    """Returns the schema of the probe's events: a protobuf message and the table's DDL.

    Called once by the agent and once by the server, without root and without a kernel.

    Example::

        @hookimpl
        def schema():
            return EventSchema(ExecveEvent, resources.files(__package__) / "execve_events.sql")
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def load_bpf(kernel: Kernel, options: Mapping[str, Any]) -> BpfProgram:
    """Returns the program to load into the kernel.

    Called by the agent when it starts and whenever the options change. The hook itself must not
    touch the kernel. An enricher that has this hook and ``decode``, but no ``schema``, is a
    tracker: its rows are not events but state that the enricher needs.

    :param kernel: the kernel's release, machine and number of possible CPUs.
    :param options: the plugin's own table of the agent's settings, already validated against
        ``infrasight_options``.

    Example::

        @hookimpl
        def load_bpf(kernel, options):
            return BpfProgram(
                resources.files(__package__) / "execve.bpf.c",
                attach=(SystemCall("execve", exit="exit_execve"),),
            )
    """
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def decode(columns: Columns) -> Mapping[str, pa.Array]:
    """Returns the probe's columns that differ between the block and the schema.

    Called by the agent for each drained slice of the probe's own blocks. A probe whose block and
    schema agree needs no ``decode``. The views in ``columns`` are valid during the call only:
    return arrays that Arrow owns, as ``columns.array`` does.

    For a tracker, the agent calls it once when the program is attached, even without rows, and
    then always before it enriches events that happened after the rows. A tracker stores what it
    needs and returns an empty mapping.

    :param columns: one slice: NumPy views of fixed-width columns, offsets and bytes of
        variable-length columns.
    :returns: Arrow arrays of ``columns.rows`` rows by name. The agent takes all other columns from
        the block.

    Example::

        @hookimpl
        def decode(columns):
            return {"argv": columns.split("argv", 0)}
    """
    raise AssertionError("a specification is never called")


@hookspec
def enrich(batch: pa.RecordBatch, context: EnrichContext) -> Mapping[str, pa.Array]:
    """Returns columns that are known only outside the kernel.

    Called for each batch of every probe, on the agent and again on the server. The core's plugins
    are called first, on the agent only, then the others by name. Values without a column go into
    ``tags`` (``TAGS``), which the core merges.

    :param batch: the columns that are filled so far.
    :param context: the side, the probe, the node and the plugin's own options.
    :returns: new or replaced columns of the schema, of ``batch.num_rows`` rows each; an empty
        mapping to add nothing. A null is a missing value: the row's ``quality`` flags it as
        ``<column>_missing``.

    Example::

        @hookimpl
        def enrich(batch, context):
            return {"user": names_of(batch["uid"])} if context.side == "agent" else {}
    """
    raise AssertionError("a specification is never called")
