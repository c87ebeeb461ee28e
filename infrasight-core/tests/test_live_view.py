"""The live table."""

import io
import time

import pyarrow as pa
import pytest
from infrasight_core.cli.live_view import EventTable
from rich.console import Console

NAMES = pa.dictionary(pa.int32(), pa.binary())


def events(
    first: int,
    number: int,
    comm: bytes = b"sh",
    code: int = 0,
    quality: tuple[str, ...] = (),
    time: int = 0,
) -> pa.Table:
    """Events as an execve probe's, their pid counting up."""
    columns = {
        "time": pa.array([1_700_000_000_000_000_000 + time] * number, pa.timestamp("ns", "UTC")),
        "pid": pa.array(range(first, first + number), pa.uint32()),
        "comm": pa.array([comm] * number, NAMES),
        "return_code": pa.array([code] * number, pa.int32()),
        "error": pa.array(
            ["ENOENT" if code else ""] * number, pa.dictionary(pa.int32(), pa.string())
        ),
        "duration_ns": pa.array([1_234_567] * number, pa.uint64()),
        "quality": pa.array([list(quality)] * number, pa.list_(pa.string())),
        "filename": pa.array([b"/bin/[red]x"] * number, pa.binary()),
        "argv": pa.array([[b"x", b"a b", b"\x1b[2J[bold]"]] * number, pa.list_(pa.binary())),
    }
    return pa.table(columns)


def screen(table: EventTable, width: int = 160, height: int = 10) -> list[str]:
    """What a terminal of that size shows."""
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_table_shows_the_newest_events_that_fit() -> None:
    """Of more events than lines the last ones are shown, in order, and all are counted."""
    table = EventTable()
    table.add([("execve", events(1000, 5))])
    table.add([("execve", events(2000, 1000))])
    lines = screen(table, height=10)
    assert len(lines) <= 9
    pids = [int(line.split()[2]) for line in lines[1:-1]]
    assert pids == list(range(2993, 3000))
    assert lines[-1].startswith("1,005 shown")


def test_table_sorts_the_batches_of_several_cpus() -> None:
    """A batch that comes later but holds earlier events stands above."""
    table = EventTable()
    table.add([("execve", events(1, 1, time=2))])
    table.add([("execve", events(2, 1, time=1))])
    assert [line.split()[2] for line in screen(table)[1:-1]] == ["2", "1"]


def test_table_reports_dropped_events_and_an_unavailable_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both stand in the last line and on stderr; the server's state only until events come."""
    table = EventTable()
    table.add([("execve", events(1, 1))], dropped=7)
    table.say("the server is unavailable")
    last = screen(table)[-1]
    assert last.startswith("1 shown, 7 events dropped here")
    assert last.endswith("; the server is unavailable; Ctrl-C ends")
    table.add([("execve", events(1, 1))])
    assert "unavailable" not in screen(table)[-1]
    assert capsys.readouterr().err.splitlines()[-1] == "infrasight: the server is unavailable"


def test_row_shows_the_header_then_arguments_then_other_fields() -> None:
    """Arguments stand as one would type them into a shell."""
    table = EventTable()
    table.add([("execve", events(42, 1, code=-2, quality=("argv_cut",)))])
    header, row, _ = screen(table)
    assert header.split() == ["TIME", "UTC", "COMM", "PID", "RESULT", "TOOK", "EVENT"]
    assert row.split(maxsplit=1)[1].split() == [
        *(
            "sh",
            "42",
            "ENOENT",
            "1.2ms",
            "!",
            "x",
            "'a",
            "b'",
            "$'\\x1b[2J[bold]'",
            "filename=/bin/[red]x",
            "[argv_cut]",
        ),
    ]


def test_table_escapes_what_a_terminal_would_obey() -> None:
    """Escape sequences and rich's markup in names and arguments are shown, not obeyed."""
    table = EventTable()
    table.add([("execve", events(1, 1, comm=b"\x1b]0;hi\x07"))])
    text = "\n".join(screen(table))
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert "\\x1b]0;hi\\x07" in text
    assert "[bold]" in text
    assert "[red]" in text


def test_table_names_the_probe_of_several_and_fits_the_terminal() -> None:
    """The column PROBE appears with the second probe; no line is longer than the terminal."""
    table = EventTable()
    table.add([("execve", events(1, 1))])
    assert "PROBE" not in screen(table)[0]
    table.add([("open", events(2, 1))])
    assert "PROBE" in screen(table)[0]
    narrow = screen(table, width=70)
    assert "TOOK" not in narrow[0]
    assert max(map(len, narrow)) <= 70


def test_table_without_events_shows_a_count() -> None:
    """Before the first event there is a header and a count."""
    assert screen(EventTable())[-1].startswith("0 shown")


@pytest.mark.parametrize("width", [20, 40, 60])
def test_table_shows_whole_numbers_on_narrow_terminals(width: int) -> None:
    """The process id is the last column to go; columns that do not fit are left out, not cut."""
    table = EventTable()
    table.add([("execve", events(4_194_303, 1, code=-2))])
    lines = screen(table, width=width)
    assert max(map(len, lines)) <= width
    assert "4194303" in lines[1].split()
    assert "TOOK" not in lines[0]


def test_table_states_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are local, and the header has their offset from UTC."""
    monkeypatch.setenv("TZ", "XXX-05:30")
    time.tzset()
    try:
        table = EventTable()
        table.add([("execve", events(1, 1))])
        header, row, _ = screen(table)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert header.startswith("TIME +0530 ")
    assert row.startswith("03:43:20.000 ")
