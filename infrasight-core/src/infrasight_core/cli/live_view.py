"""Events as they come: a live table on a terminal, JSON lines anywhere else."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import Any, Protocol

import pyarrow as pa
from attrs import frozen
from infrasight.v1.event_pb2 import EventHeader
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infrasight_core.cli.format import address, is_address, json_lines, printable, quoted, shown

_HEADER = frozenset(EventHeader.DESCRIPTOR.fields_by_name)
_KEPT = 200  # rows; no terminal shows more
_EVENT_CHARACTERS = 1000
# Column, its width, and how wide the terminal must be to show it.
_COLUMNS = {
    "TIME": (12, 0),
    "NODE": (12, 130),
    "PROBE": (8, 0),
    "COMM": (15, 0),
    "PID": (7, 0),
    "PPID": (7, 90),
    "USER": (10, 70),
    "RESULT": (8, 0),
    "TOOK": (7, 100),
}


class EventView(Protocol):
    """Where events are shown."""

    def add(self, probe: str, rows: pa.Table, dropped: int = 0) -> None:
        """Shows one probe's events; before them, `dropped` others could not be shown."""

    def say(self, text: str) -> None:
        """Says why no events come; what is said holds until the next ones do."""


@contextmanager
def event_view(as_table: bool | None = None) -> Iterator[EventView]:
    """Shows events on stdout for as long as the context lasts.

    Messages on stderr may be written meanwhile; on a terminal they appear above the table.

    Args:
        as_table: A live table, or JSON lines; None to choose the table on a terminal.
    """
    console = Console()
    if as_table is None:
        as_table = console.is_terminal and not console.is_dumb_terminal
    if not as_table:
        yield Lines()
        return
    table = EventTable()
    on_screen = sys.stderr.isatty()  # what goes to a file stays on its way there
    with Live(
        table,
        console=console,
        refresh_per_second=8,
        redirect_stderr=on_screen,
        vertical_overflow="crop",
    ):
        yield table


class Lines:
    """JSON lines on stdout, each with its probe, flushed at the end of each batch."""

    def add(self, probe: str, rows: pa.Table, dropped: int = 0) -> None:
        """Writes the rows. Raises BrokenPipeError when nobody reads any more."""
        if dropped:
            self.say(_dropped(dropped))
        named = rows.add_column(0, "probe", pa.array([probe] * rows.num_rows, pa.string()))
        for line in json_lines(named):
            sys.stdout.buffer.write(line.encode() + b"\n")
        sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """Writes it to stderr."""
        print(f"infrasight: {text}", file=sys.stderr)


@frozen
class _Row:
    time: int
    cells: dict[str, str]
    event: Text
    failed: bool


class EventTable:
    """The newest events, as many as the terminal has lines for, the newest at the bottom."""

    def __init__(self) -> None:
        self._rows: deque[_Row] = deque(maxlen=_KEPT)
        self._lock = Lock()
        self._events = self._dropped = 0
        self._said = ""
        self._probes: set[str] = set()

    def add(self, probe: str, rows: pa.Table, dropped: int = 0) -> None:
        """Takes events in; only those that can be seen are looked at."""
        if dropped:
            self.say(_dropped(dropped))
        newest = _rows(probe, rows.slice(max(0, rows.num_rows - _KEPT)))
        with self._lock:
            self._rows.extend(newest)
            self._events += rows.num_rows
            self._dropped += dropped
            self._probes.add(probe)
            self._said = ""

    def say(self, text: str) -> None:
        """Shows it in the last line; and writes it to stderr, should that lead elsewhere than to the same terminal."""
        with self._lock:
            self._said = f"; {text}"
        if not sys.stderr.isatty():
            print(f"infrasight: {text}", file=sys.stderr)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(1, console.size.height - 3)
        with self._lock:
            rows, probes = sorted(self._rows, key=lambda row: row.time), len(self._probes)
            dropped = f", {_dropped(self._dropped)}" if self._dropped else ""
            footer = f"{self._events:,} shown{dropped}{self._said}; Ctrl-C ends"
        rows = rows[
            -height:
        ]  # each CPU's events come in a batch of their own: only sorted are the last the newest
        shows = [name for name, (_, least) in _COLUMNS.items() if console.width >= least]
        shows = [
            name
            for name in shows
            if any(r.cells[name] for r in rows) and (name != "PROBE" or probes > 1)
        ]
        table = Table(
            box=None, expand=True, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0)
        )
        for name in shows:
            number = name in ("PID", "PPID", "TOOK")
            table.add_column(
                name, width=_COLUMNS[name][0], no_wrap=True, justify="right" if number else "left"
            )
        table.add_column("EVENT", ratio=1, no_wrap=True, overflow="ellipsis")
        for row in rows:
            cells = [
                Text(row.cells[name], "red" if name == "RESULT" and row.failed else "")
                for name in shows
            ]
            table.add_row(*cells, row.event)
        yield table
        yield Text(footer, "dim", no_wrap=True, overflow="ellipsis")


def _dropped(events: int) -> str:
    return f"{events:,} events dropped here: they came faster than they could be shown"


def _rows(probe: str, rows: pa.Table) -> Iterator[_Row]:
    columns = {
        field.name: _python(rows.column(field.name), is_address(field)) for field in rows.schema
    }
    own = [name for name in columns if name not in _HEADER]
    own.sort(
        key=lambda name: not pa.types.is_list(rows.schema.field(name).type)
    )  # argv says most: lists come first
    for index in range(rows.num_rows):
        row = {name: column[index] for name, column in columns.items()}
        code = row.get("return_code") or 0
        cells = {
            "TIME": datetime.fromtimestamp(row.get("time", 0) // 1_000_000 / 1000).strftime(
                "%H:%M:%S.%f"
            )[:-3],
            "NODE": _text(row.get("node") or ""),
            "PROBE": probe,
            "COMM": _text(row.get("comm") or ""),
            "PID": str(row.get("pid", "")),
            "PPID": str(row.get("ppid", "")),
            "USER": _text(row.get("user") or str(row.get("uid", ""))),
            "RESULT": _text(row.get("error") or str(code)),
            "TOOK": _duration(row.get("duration_ns", 0)),
        }
        yield _Row(
            row.get("time", 0),
            cells,
            _event({name: row[name] for name in own}, row.get("quality") or []),
            code < 0,
        )


def _python(column: pa.ChunkedArray, addresses: bool) -> list[Any]:
    if addresses:  # none is shown where there is none
        return [
            address(value) if isinstance(value, bytes) and any(value) else ""
            for value in column.to_pylist()
        ]
    return list(
        (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    )


def _event(own: dict[str, Any], quality: list[str]) -> Text:
    text = Text(no_wrap=True)
    if quality:  # a mark where it is surely seen; which flags they are stands at the end
        text.append("! ", "yellow")
    for name, value in own.items():
        if value in (None, 0, b"", "", []) or len(text) > _EVENT_CHARACTERS:
            continue
        if isinstance(value, list):
            words = [
                quoted(v[:_EVENT_CHARACTERS]) if isinstance(v, bytes) else _text(v)
                for v in value[:_EVENT_CHARACTERS]
            ]
            text.append(" ".join(words)[:_EVENT_CHARACTERS] + " ")
        else:
            text.append(f"{name}=", "dim").append(_text(value)[:_EVENT_CHARACTERS] + " ")
    if quality:
        text.append(f"[{' '.join(map(_text, quality))}]", "yellow")
    return text


def _text(value: Any) -> str:
    return printable(shown(value) if isinstance(value, bytes) else str(value))


def _duration(nanoseconds: int) -> str:
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1000)):
        if nanoseconds >= size:
            return (
                f"{nanoseconds / size:.1f}{unit}"
                if nanoseconds < 100 * size
                else f"{nanoseconds // size}{unit}"
            )
    return f"{nanoseconds}ns"
