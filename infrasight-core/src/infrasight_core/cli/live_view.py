"""Events as they come: a live table on a terminal, JSON lines anywhere else."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from attrs import frozen
from infrasight.v1.event_pb2 import EventHeader
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infrasight_core.cli.format import address, is_address, json_lines, quoted, shown, write_lines
from infrasight_core.console.streams import printable, report, stdout_is_utf8

_HEADER = frozenset(EventHeader.DESCRIPTOR.fields_by_name)
_ROWS = 200  # no terminal shows more
_EVENT_CHARACTERS = 1000
_LEAST_EVENT_WIDTH = 12
# Columns in the order of the table, each with its width. The numbers always fit.
_WIDTHS = {
    "TIME": 12,
    "NODE": 12,
    "PROBE": 8,
    "COMM": 15,
    "PID": 7,
    "PPID": 7,
    "USER": 10,
    "RESULT": 8,
    "TOOK": 7,
}
# Columns with the most important first, each with the least width of a terminal that shows it.
_IMPORTANCE = {
    "PID": 0,
    "PROBE": 0,
    "RESULT": 0,
    "COMM": 0,
    "TIME": 0,
    "USER": 70,
    "PPID": 90,
    "TOOK": 100,
    "NODE": 130,
}
_NUMBERS = ("PID", "PPID", "TOOK")

Batches = Sequence[tuple[str, pa.Table]]


class EventView(Protocol):
    """Where events are shown."""

    def add(self, batches: Batches, dropped: int = 0) -> None:
        """Shows events, each batch with its probe; `dropped` events before them are not shown."""

    def say(self, text: str) -> None:
        """Shows why no events come, until the next ones do."""


@contextmanager
def event_view(as_table: bool | None = None) -> Iterator[EventView]:
    """Shows events on stdout for as long as the context lasts.

    Messages on stderr may be written meanwhile; on a terminal they appear above the table.

    Args:
        as_table: A live table, or JSON lines; None chooses the table on a terminal.
    """
    console = Console()
    if as_table is None:
        as_table = console.is_terminal and not console.is_dumb_terminal
    if not as_table:
        yield Lines()
        return
    table = EventTable()
    with Live(
        table,
        console=console,
        refresh_per_second=8,
        redirect_stderr=sys.stderr.isatty(),
        vertical_overflow="crop",
    ):
        yield table


class Lines:
    """JSON lines on stdout, each with its probe, flushed at the end of each call."""

    def add(self, batches: Batches, dropped: int = 0) -> None:
        """Writes the rows in order of time. Raises BrokenPipeError when no one reads any more."""
        if dropped:
            self.say(_dropped(dropped))
        lines = [line for probe, rows in batches for line in json_lines(_with_probe(probe, rows))]
        if len(batches) > 1:
            times = [rows.column("time").cast(pa.int64()).to_numpy() for _, rows in batches]
            order = np.argsort(np.concatenate(times), kind="stable")
            lines = [lines[index] for index in order]
        write_lines(lines)
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Writes the text to stderr."""
        report(f"infrasight: {text}")


def _with_probe(probe: str, rows: pa.Table) -> pa.Table:
    return rows.add_column(0, "probe", pa.array([probe] * rows.num_rows, pa.string()))


@frozen
class _Row:
    """An event as it is shown.

    Attributes:
        time: Its time, in nanoseconds since 1970.
        cells: The text of each column.
        event: The probe's own fields.
        failed: Whether the call failed.
    """

    time: int
    cells: dict[str, str]
    event: Text
    failed: bool


class EventTable:
    """The newest events, as many as the terminal has lines for, the newest at the bottom."""

    def __init__(self) -> None:
        self._rows: deque[_Row] = deque(maxlen=_ROWS)
        self._lock = Lock()
        self._events = 0
        self._dropped = 0
        self._status = ""
        self._probes: set[str] = set()

    def add(self, batches: Batches, dropped: int = 0) -> None:
        """Adds events; only the newest, which can be seen, are formatted."""
        if dropped:
            self.say(_dropped(dropped))
        for probe, rows in batches:
            newest = list(_rows(probe, rows.slice(max(0, rows.num_rows - _ROWS))))
            with self._lock:
                self._rows.extend(newest)
                self._events += rows.num_rows
                self._dropped += dropped
                self._probes.add(probe)
                self._status = ""
            dropped = 0

    def say(self, text: str) -> None:
        """Shows the text in the last line, and writes it to stderr unless that is a terminal."""
        with self._lock:
            self._status = f"; {text}"
        if not sys.stderr.isatty():
            report(f"infrasight: {text}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(1, console.size.height - 3)
        with self._lock:
            # Each CPU has its own batches: the last rows are the newest only
            # once they are sorted.
            rows = sorted(self._rows, key=lambda row: row.time)[-height:]
            several_probes = len(self._probes) > 1
            dropped = f", {_dropped(self._dropped)}" if self._dropped else ""
            footer = f"{self._events:,} shown{dropped}{self._status}; Ctrl-C ends"
        overflow: Any = "ellipsis" if stdout_is_utf8() else "crop"
        names = _columns_that_fit(rows, several_probes, console.width)
        table = Table(
            box=None, expand=True, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0)
        )
        for name in names:
            table.add_column(
                _time_header() if name == "TIME" else name,
                width=_WIDTHS[name],
                no_wrap=True,
                overflow=overflow,
                justify="right" if name in _NUMBERS else "left",
            )
        table.add_column("EVENT", ratio=1, no_wrap=True, overflow=overflow)
        for row in rows:
            cells = [
                Text(row.cells[name], "red" if name == "RESULT" and row.failed else "")
                for name in names
            ]
            table.add_row(*cells, row.event)
        yield table
        yield Text(printable(footer), "dim", no_wrap=True, overflow=overflow)


def _columns_that_fit(rows: Sequence[_Row], several_probes: bool, width: int) -> list[str]:
    """The columns that hold something and leave room for the event on a terminal of this width."""
    chosen = set()
    room = width - _LEAST_EVENT_WIDTH
    for name, least_terminal in _IMPORTANCE.items():
        if width < least_terminal or _WIDTHS[name] + 1 > room:
            continue
        if name == "PROBE" and not several_probes:
            continue
        if any(row.cells[name] for row in rows):
            chosen.add(name)
            room -= _WIDTHS[name] + 1
    return [name for name in _WIDTHS if name in chosen]


def _time_header() -> str:
    """The column's name with the time zone that its times are in, as an offset from UTC."""
    offset = time.strftime("%z")
    return "TIME UTC" if offset in ("", "+0000") else f"TIME {offset}"


def _dropped(events: int) -> str:
    return f"{events:,} events dropped here: they came faster than they could be shown"


def _rows(probe: str, rows: pa.Table) -> Iterator[_Row]:
    columns = {
        field.name: _python(rows.column(field.name), is_address(field)) for field in rows.schema
    }
    own = [name for name in columns if name not in _HEADER]
    # Lists come first: argv says most about an execution.
    own.sort(key=lambda name: not pa.types.is_list(rows.schema.field(name).type))
    for index in range(rows.num_rows):
        row = {name: column[index] for name, column in columns.items()}
        nanoseconds = row.get("time", 0)
        code = row.get("return_code") or 0
        cells = {
            "TIME": _time_of_day(nanoseconds),
            "NODE": _text(row.get("node") or ""),
            "PROBE": probe,
            "COMM": _text(row.get("comm") or ""),
            "PID": str(row.get("pid", "")),
            "PPID": str(row.get("ppid", "")),
            "USER": _text(row.get("user") or str(row.get("uid", ""))),
            "RESULT": _text(row.get("error") or str(code)),
            "TOOK": _duration(row.get("duration_ns", 0)),
        }
        event = _event({name: row[name] for name in own}, row.get("quality") or [])
        yield _Row(nanoseconds, cells, event, failed=code < 0)


def _python(column: pa.ChunkedArray, addresses: bool) -> list[Any]:
    if addresses:
        return [_shown_address(value) for value in column.to_pylist()]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return list(column.to_pylist())


def _shown_address(value: Any) -> str:
    """An IP address; nothing where the event has none, which is 16 bytes of zero."""
    return address(value) if isinstance(value, bytes) and any(value) else ""


def _event(own: dict[str, Any], quality: Iterable[str]) -> Text:
    text = Text(no_wrap=True)
    flags = " ".join(map(_text, quality))
    if flags:  # a mark where it is seen; the flags follow at the end
        text.append("! ", "yellow")
    for name, value in own.items():
        if value in (None, 0, b"", "", []) or len(text) > _EVENT_CHARACTERS:
            continue
        if isinstance(value, list):
            words = " ".join(_word(item) for item in value[:_EVENT_CHARACTERS])
            text.append(words[:_EVENT_CHARACTERS] + " ")
        else:
            text.append(f"{name}=", "dim").append(_text(value)[:_EVENT_CHARACTERS] + " ")
    if flags:
        text.append(f"[{flags}]", "yellow")
    return text


def _word(item: Any) -> str:
    return quoted(item[:_EVENT_CHARACTERS]) if isinstance(item, bytes) else _text(item)


def _text(value: Any) -> str:
    return printable(shown(value) if isinstance(value, bytes) else str(value))


def _time_of_day(nanoseconds: int) -> str:
    """Local time to the millisecond."""
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000 / 1000)
    return moment.strftime("%H:%M:%S.%f")[:-3]


def _duration(nanoseconds: int) -> str:
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)):
        if nanoseconds >= 100 * size:
            return f"{nanoseconds // size}{unit}"
        if nanoseconds >= size:
            return f"{nanoseconds / size:.1f}{unit}"
    return f"{nanoseconds}ns"
