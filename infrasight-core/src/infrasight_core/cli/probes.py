"""`infrasight probes`: the installed plugins."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

import attrs
import click
from attrs import evolve, frozen
from rich.console import Console
from rich.text import Text

from infrasight_core import logs
from infrasight_core.cli.format import write_objects
from infrasight_core.cli.format_option import default_format, format_option
from infrasight_core.cli.table import Column, print_table
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.streams import printable
from infrasight_core.errors import ConfigError, PluginError, SchemaError
from infrasight_core.kernel.loader import running_kernel
from infrasight_core.plugin import ddl
from infrasight_core.plugin.hookspecs import ENTRY_POINT_GROUP
from infrasight_core.plugin.manager import PluginManager

EPILOG = f"""\b
Examples:
  infrasight probes
  infrasight probes --format json | jq -r 'select(.failed_hook != "") | .name + ": " + .reason'
  infrasight probes --ddl execve

\b
An agent runs every installed probe. The setting `probes` (an option, a variable or a key of
the settings file) names the only probes to run, and `disable` the plugins to leave out:
  INFRASIGHT_AGENT_PROBES=execve infrasight agent
  INFRASIGHT_AGENT_DISABLE=users infrasight agent

{EXIT_STATUSES}"""
_HINT = "Run only some: INFRASIGHT_AGENT_PROBES=NAME,NAME; leave some out: INFRASIGHT_AGENT_DISABLE"
_COLUMNS = tuple(
    Column(name) for name in ("NAME", "DISTRIBUTION", "HOOKS", "MESSAGE", "TABLE", "STATUS")
)


@frozen
class PluginRow:
    """One installed plugin, as the command lists it.

    Attributes:
        name: Its entry-point name.
        distribution: The distribution that provides it.
        version: That distribution's version.
        hooks: The hooks it implements, sorted.
        message_type: The full name of its protobuf message; empty for an enricher.
        table: Where its events are stored; empty for an enricher.
        status: `loaded` or `failed`.
        failed_hook: The hook that failed, or `import`; empty when loaded.
        reason: Why, in one line; empty when loaded.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    message_type: str = ""
    table: str = ""
    status: str = "loaded"
    failed_hook: str = ""
    reason: str = ""


@click.command("probes", epilog=EPILOG)
@format_option()
@click.option(
    "--ddl",
    "ddl_probe",
    metavar="NAME",
    help="Print the complete CREATE TABLE statement of this probe's table and exit.",
)
def command(output_format: str | None, ddl_probe: str | None) -> None:
    """List the installed plugins, with the hook that failed and the reason for a broken one."""
    logs.configure("error")  # the list shows each failure
    if ddl_probe is not None:
        print(f"{_table_statement(ddl_probe)};")
        return
    rows = list(_rows())
    if (output_format or default_format()) == "json":
        write_objects(attrs.asdict(row) for row in rows)
        return
    console = Console()
    print_table(console, _COLUMNS, [_cells(row) for row in rows])
    console.print(Text(_HINT, "dim"))


def _table_statement(probe: str) -> str:
    manager = PluginManager.discover(enable=[probe])
    if probe in manager.failures:
        raise manager.failures[probe]
    schema = manager.plugins[probe].schema
    if schema is None:
        raise ConfigError(f"--ddl: {probe} is an enricher; only probes have tables")
    return ddl.define_table(probe, schema).statement


def _rows() -> Iterator[PluginRow]:
    manager = PluginManager.discover()
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        yield _row(manager, point)


def _row(manager: PluginManager, point: EntryPoint) -> PluginRow:
    row = PluginRow(
        point.name,
        point.dist.name if point.dist else "unknown",
        point.dist.version if point.dist else "",
    )
    failure = manager.failures.get(point.name)
    plugin = manager.plugins.get(point.name)
    if plugin is not None:
        failure = _failure(manager, point.name)
        row = evolve(row, hooks=tuple(sorted(plugin.hooks)))
        if plugin.schema is not None:
            message_type = plugin.schema.message_type
            row = evolve(row, message_type=message_type, table=f"{point.name}_events")
    if failure is not None:
        row = evolve(row, status="failed", failed_hook=failure.hook, reason=failure.reason)
    return row


def _failure(manager: PluginManager, name: str) -> PluginError | None:
    """The failure of a plugin that could be imported, found without touching the kernel."""
    plugin = manager.plugins[name]
    try:
        if plugin.schema is not None:
            ddl.define_table(name, plugin.schema)
        if plugin.is_probe or plugin.is_tracker:
            manager.load_bpf(name, running_kernel(), {})
    except SchemaError as error:
        return PluginError(name, "schema", str(error))
    except PluginError as error:
        return error
    return None


def _cells(row: PluginRow) -> list[Text]:
    texts = (
        row.name,
        f"{row.distribution} {row.version}",
        ", ".join(row.hooks),
        row.message_type,
        row.table,
    )
    status = Text("loaded", "green")
    if row.status == "failed":
        status = Text(printable(f"{row.failed_hook}: {row.reason}"), "red")
    return [*(Text(printable(text)) for text in texts), status]
