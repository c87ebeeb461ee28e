"""`infrasight probes`: the installed plugins."""

import json
from collections.abc import Iterator
from importlib.metadata import entry_points

import attrs
import click
from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infrasight_core import logs
from infrasight_core.cli.format import printable
from infrasight_core.errors import ConfigError, PluginError, SchemaError
from infrasight_core.kernel.loader import running_kernel
from infrasight_core.plugin import ddl
from infrasight_core.plugin.hookspecs import ENTRY_POINT_GROUP
from infrasight_core.plugin.manager import PluginManager

EPILOG = """\b
Examples:
  infrasight probes
  infrasight probes --json | jq -r 'select(.failed_hook != "") | .name + ": " + .reason'
  infrasight probes --ddl execve

\b
An agent runs every probe that is installed. In its configuration (or as an option, or as a
variable) `probes` names the only ones to run, and `disable` those to leave out:
  INFRASIGHT_AGENT_PROBES=execve infrasight agent
  INFRASIGHT_AGENT_DISABLE=users infrasight agent
"""


@frozen
class Row:
    """One installed plugin.

    Attributes:
        name: Its entry-point name.
        distribution: What brought it.
        version: That distribution's version.
        hooks: The hooks it implements, sorted.
        message_type: The full name of its protobuf message; empty for an enricher.
        table: Where its events are stored; empty for an enricher.
        status: `loaded` or `failed`.
        failed_hook: Which hook failed, or `import`; empty when loaded.
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
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
@click.option(
    "--ddl",
    "ddl_probe",
    metavar="NAME",
    help="Print the complete CREATE TABLE statement of this probe's table and exit.",
)
def command(as_json: bool, ddl_probe: str | None) -> None:
    """List the installed plugins, and for each that is broken which hook failed and why."""
    logs.configure("error")  # a failure stands in the list
    if ddl_probe is not None:
        click.echo(f"{_table_statement(ddl_probe)};")
        return
    rows = list(_rows())
    console = Console()
    if as_json or not console.is_terminal:
        for row in rows:
            click.echo(json.dumps(attrs.asdict(row), ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("NAME", "DISTRIBUTION", "HOOKS", "MESSAGE", "TABLE", "STATUS"):
        table.add_column(name, overflow="fold")
    for row in rows:
        failed = printable(f"{row.failed_hook}: {row.reason}")
        status = Text("loaded", "green") if row.status == "loaded" else Text(failed, "red")
        cells = (
            row.name,
            f"{row.distribution} {row.version}",
            ", ".join(row.hooks),
            row.message_type,
            row.table,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells), status)
    console.print(table)
    console.print(
        Text(
            "Run only some: INFRASIGHT_AGENT_PROBES=NAME,…; leave some out: INFRASIGHT_AGENT_DISABLE=NAME,…",
            "dim",
        )
    )


def _table_statement(probe: str) -> str:
    manager = PluginManager.discover(enable=[probe])
    if probe in manager.failures:
        raise manager.failures[probe]
    schema = manager.plugins[probe].schema
    if schema is None:
        raise ConfigError(f"--ddl: {probe} is an enricher; only probes have tables")
    return ddl.define_table(probe, schema).statement


def _rows() -> Iterator[Row]:
    manager = PluginManager.discover()
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        row = Row(
            point.name,
            point.dist.name if point.dist else "unknown",
            point.dist.version if point.dist else "",
        )
        failure = manager.failures.get(point.name)
        plugin = manager.plugins.get(point.name)
        if plugin is not None:
            failure = _failure(manager, point.name)
            row = attrs.evolve(row, hooks=tuple(sorted(plugin.hooks)))
            if plugin.schema is not None:
                row = attrs.evolve(
                    row, message_type=plugin.schema.message_type, table=f"{point.name}_events"
                )
        if failure is not None:
            row = attrs.evolve(
                row, status="failed", failed_hook=failure.hook, reason=failure.reason
            )
        yield row


def _failure(manager: PluginManager, name: str) -> PluginError | None:
    """What goes wrong in a plugin that could be imported, as far as it shows without touching the kernel."""
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
