"""`infrasight query`: SQL to a server, rows back."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infrasight_core.cli.format import json_lines, printable, rows_of, unique_names
from infrasight_core.cli.server_options import server_options

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = """\b
Examples:
  infrasight query "SELECT time, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5"
  infrasight query "SELECT comm, count() FROM execve_events GROUP BY comm" --format csv
  infrasight query - < report.sql
  infrasight query "SELECT * FROM execve_events" | jq -r .filename
  infrasight query "SELECT * FROM execve_events" --format arrow > events.arrows

\b
Only reading statements are answered. In JSON and CSV bytes that are not UTF-8 are \\xNN.
"""
_ROWS_PER_TABLE = 1000
_LEAST_WIDTH = 6  # of a column; rows with more columns than fit are shown one below the other


@click.command("query", epilog=EPILOG)
@click.argument("sql")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "arrow"]),
    help="arrow is an Arrow IPC stream.  [table on a terminal, json in a pipe]",
)
@server_options
def command(
    sql: str, form: str | None, connect: Callable[[], "ServerClient"], server: str | None
) -> None:
    """Ask a server with one SQL statement; - reads it from standard input."""
    if sql == "-":
        sql = sys.stdin.buffer.read().decode("utf-8", "backslashreplace")
    if not sql.strip():
        raise click.UsageError('no statement: try infrasight query "SELECT 1"')
    form = form or ("table" if sys.stdout.isatty() else "json")
    if form == "arrow" and sys.stdout.isatty():
        raise click.UsageError("--format arrow is for a file or a pipe: add > FILE")
    with connect() as client:
        _WRITERS[form](client.query(sql))


def _write_json(pieces: Iterator[pa.Table]) -> None:
    for piece in pieces:
        for line in json_lines(piece):
            sys.stdout.buffer.write(line.encode() + b"\n")


def _write_csv(pieces: Iterator[pa.Table]) -> None:
    for number, piece in enumerate(pieces):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if number == 0:
            writer.writerow(unique_names(piece.column_names))
        for batch in piece.to_batches():
            writer.writerows([_cell(value) for value in row] for row in rows_of(batch))
            sys.stdout.buffer.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
        sys.stdout.buffer.write(text.getvalue().encode())


def _write_arrow(pieces: Iterator[pa.Table]) -> None:
    first = next(pieces)
    with pa.ipc.new_stream(sys.stdout.buffer, first.schema) as writer:
        writer.write_table(first)
        for piece in pieces:
            writer.write_table(piece)


def _write_table(pieces: Iterator[pa.Table]) -> None:
    """A table for every so many rows, so that the first rows stand there before the last have come."""
    console = Console()
    total, waiting = 0, next(pieces)
    for piece in pieces:
        waiting = pa.concat_tables([waiting, piece])
        if waiting.num_rows >= _ROWS_PER_TABLE:
            _print(console, waiting, total)
            total, waiting = total + waiting.num_rows, waiting.slice(0, 0)
    if waiting.num_rows or not total:
        _print(console, waiting, total)
    total += waiting.num_rows
    click.echo("1 row" if total == 1 else f"{total:,} rows", err=True)


def _print(console: Console, piece: pa.Table, before: int) -> None:
    names = [printable(name) for name in unique_names(piece.column_names)]
    upright = len(names) * _LEAST_WIDTH > console.width
    if not upright:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for name, field in zip(names, piece.schema, strict=True):
            number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for batch in piece.to_batches():
        for row in rows_of(batch):
            cells = [Text(printable(_cell(value))) for value in row]
            if not upright:
                table.add_row(*cells)
                continue
            before += 1
            console.print(Text(f"── row {before} ──", "bold"))
            for name, cell in zip(names, cells, strict=True):
                console.print(
                    Text(f"{name:<{max(map(len, names))}}  ").append(cell), soft_wrap=True
                )
    if not upright:
        console.print(table)


_WRITERS: dict[str, Callable[[Iterator[pa.Table]], None]] = {
    "json": _write_json,
    "csv": _write_csv,
    "arrow": _write_arrow,
    "table": _write_table,
}


def _cell(value: object) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
