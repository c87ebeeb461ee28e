"""`infrasight query`: an SQL statement to a server, rows back."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click
import pyarrow as pa
from rich.console import Console
from rich.text import Text

from infrasight_core.cli.format import json_lines, rows_of, unique_names, write_lines
from infrasight_core.cli.format_option import default_format, format_option
from infrasight_core.cli.server_options import server_options
from infrasight_core.cli.table import Column, print_table
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.streams import printable, report, utf8_argument
from infrasight_core.errors import QueryError

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = f"""\b
Examples:
  infrasight query "SELECT time, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5"
  infrasight query "SELECT comm, count() FROM execve_events GROUP BY comm" --format csv
  infrasight query - < report.sql
  infrasight query "SELECT * FROM execve_events" | jq -r .filename
  infrasight query "SELECT * FROM execve_events" --format arrow > events.arrows

\b
The server answers only statements that read. Bytes that are not UTF-8 are shown as \\xNN;
in a string of a statement, \\xNN is such a byte.

{EXIT_STATUSES}"""
_ROWS_PER_TABLE = 1000
_FORMAT_CLAUSE = re.compile(r"\bFORMAT\s+[a-z]\w*\s*;?\s*$", re.IGNORECASE)


@click.command("query", epilog=EPILOG)
@click.argument("sql")
@format_option("csv", "arrow", note="arrow is an Arrow IPC stream.")
@server_options
def command(
    sql: str,
    output_format: str | None,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Run one SQL statement on a server; - reads it from standard input."""
    statement = _read_stdin() if sql == "-" else utf8_argument(sql)
    if not statement.strip():
        raise click.UsageError('no statement: try infrasight query "SELECT 1"')
    output_format = output_format or default_format()
    if output_format == "arrow" and sys.stdout.isatty():
        raise click.UsageError("--format arrow is for a file or a pipe: add > FILE")
    try:
        with connect() as client:
            _WRITERS[output_format](client.query(statement))
    except QueryError as error:
        if _FORMAT_CLAUSE.search(statement) and "FORMAT" in str(error):
            raise QueryError(
                f"leave the FORMAT clause out: --format chooses the output ({', '.join(_WRITERS)})"
            ) from error
        raise


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8", "backslashreplace")
    except OSError as error:
        raise click.UsageError(f"cannot read standard input: {error.strerror}") from error


def _write_json(pieces: Iterator[pa.Table]) -> None:
    for piece in pieces:
        write_lines(json_lines(piece))


def _write_csv(pieces: Iterator[pa.Table]) -> None:
    """Writes CSV; a terminal gets only printable text, a file or a pipe the values as they are."""
    shown = printable if sys.stdout.isatty() else str
    for number, piece in enumerate(pieces):
        if number == 0:
            _write_csv_rows([[shown(name) for name in unique_names(piece.column_names)]])
        for batch in piece.to_batches():
            _write_csv_rows([shown(_cell(value)) for value in row] for row in rows_of(batch))


def _write_csv_rows(rows: "Iterator[list[str]] | list[list[str]]") -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    sys.stdout.write(text.getvalue())


def _write_arrow(pieces: Iterator[pa.Table]) -> None:
    first = next(pieces)
    with pa.ipc.new_stream(sys.stdout.buffer, first.schema) as writer:
        writer.write_table(first)
        for piece in pieces:
            writer.write_table(piece)


def _write_table(pieces: Iterator[pa.Table]) -> None:
    """Prints a table for every 1,000 rows, so that the first rows appear before the last come."""
    console = Console()
    printed = 0
    waiting = next(pieces)
    for piece in pieces:
        waiting = pa.concat_tables([waiting, piece])
        if waiting.num_rows >= _ROWS_PER_TABLE:
            _print(console, waiting, printed)
            printed += waiting.num_rows
            waiting = waiting.slice(0, 0)
    if waiting.num_rows or not printed:
        _print(console, waiting, printed)
    total = printed + waiting.num_rows
    report("1 row" if total == 1 else f"{total:,} rows")


def _print(console: Console, rows: pa.Table, printed: int) -> None:
    names = [printable(name) for name in unique_names(rows.column_names)]
    columns = [
        Column(name, pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
        for name, field in zip(names, rows.schema, strict=True)
    ]
    cells = [
        [Text(printable(_cell(value))) for value in row]
        for batch in rows.to_batches()
        for row in rows_of(batch)
    ]
    print_table(console, columns, cells, printed + 1)


_WRITERS: dict[str, Callable[[Iterator[pa.Table]], None]] = {
    "table": _write_table,
    "json": _write_json,
    "csv": _write_csv,
    "arrow": _write_arrow,
}


def _cell(value: object) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
