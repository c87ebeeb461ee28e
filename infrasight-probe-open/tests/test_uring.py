"""Opens through io_uring: known requests become exactly the expected rows."""

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import infrasight_probe_open.plugin
import pytest
from attrs import evolve
from infrasight_core import hookimpl
from infrasight_core.kernel.filters import Filters
from infrasight_recording import Recording, recording
from infrasight_testbed.uring import (
    ASYNC,
    NEVER_TAKE,
    NOT_COMPLETED,
    SILENT,
    SQPOLL,
    Request,
    RequestResults,
    build,
    make_requests,
)
from prometheus_client import REGISTRY

Row = dict[str, Any]
BENEATH = 8
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
UNKNOWN = ["entry_missing", "path_missing", "flags_missing"]
USER = 4242  # whom nothing else on the machine is
NAMELESS = {"user_missing", "group_name_missing"}  # of a user whom no database knows
MINE = Filters(include_uid=(USER,))
METRIC = "infrasight_operations_dropped_total"
NONE = {"x32": 0, "io_uring": 0}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a file `given`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        (Path(name) / "given").touch()
        (Path(name) / "given").chmod(0o666)
        yield Path(name).resolve()


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """The program that makes requests, where every user may run it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield build(Path(name).resolve())


@pytest.fixture(scope="module")
def requests_recorded() -> Iterator[Recording]:
    """A running recording of one user's opens."""
    with recording("open", infrasight_probe_open.plugin, filters=MINE) as running:
        yield running
    running.assert_accounted()
    assert running.counts.entries_full == 0


def rows_of(recorded: Recording, made: RequestResults) -> list[Row]:
    """The program's requests, in order of their submission."""
    rows = [row for row in recorded.rows_of(made.pid) if row["via"] == "io_uring"]
    for row in rows:
        assert set(row["quality"]) >= NAMELESS
        row["quality"] = [flag for flag in row["quality"] if flag not in NAMELESS]
    return rows


def paths(rows: Sequence[Row]) -> list[tuple[bytes, int]]:
    """Each row's path and result."""
    return [(row["path"], row["return_code"]) for row in rows]


@pytest.mark.parametrize(
    ("setup", "sqe_flags", "comm"),
    [(0, 0, b"uring_calls"), (0, ASYNC, b"iou-wrk-"), (SQPOLL, 0, b"iou-sqp-")],
    ids=["inline", "worker", "polled"],
)
def test_every_open_request_is_recorded(
    requests_recorded: Recording,
    folder: Path,
    program: Path,
    setup: int,
    sqe_flags: int,
    comm: bytes,
) -> None:
    """OPENAT and OPENAT2, in the submitting thread, in a worker and in the polling thread."""
    given = bytes(folder / "given")
    missing = bytes(folder / "missing")
    directory = os.open(folder, os.O_RDONLY)
    asked = struct.pack("=QQQ", CREATE, 0o640, BENEATH)
    requests: list[tuple[Request, Row]] = [
        (Request(given), {"resolved_path": given}),
        (Request(missing, os.O_RDWR), {"error": "ENOENT", "flags": 2}),
        (
            Request(given + b"1", CREATE, 0o640),
            {"resolved_path": given + b"1", "flags": CREATE, "mode": 0o640},
        ),
        (Request(b"given", dirfd=directory), {"resolved_path": given, "dirfd": directory}),
        (
            Request(b"given2", how=asked, dirfd=directory),
            {
                "resolved_path": given + b"2",
                "dirfd": directory,
                "flags": CREATE,
                "mode": 0o640,
                "resolve": BENEATH,
            },
        ),
        (
            Request(given, how=asked),
            {"error": "EXDEV", "flags": CREATE, "mode": 0o640, "resolve": BENEATH},
        ),
        (
            Request(given, os.O_WRONLY | os.O_DIRECTORY),
            {"error": "ENOTDIR", "flags": os.O_WRONLY | os.O_DIRECTORY},
        ),
        (Request(given, slot=3), {"fd": -1, "quality": ["resolved_path_missing"]}),
    ]
    requests_recorded.clear()
    made = make_requests(
        program,
        USER,
        [evolve(r, sqe_flags=sqe_flags) for r, _ in requests],
        setup,
        given=[directory],
    )
    requests_recorded.wait("open")
    assert requests_recorded.recorder.untraced() == NONE
    os.close(directory)
    rows = rows_of(requests_recorded, made)
    assert len(rows) == len(requests)
    for row, (request, own), result in zip(rows, requests, made.results, strict=True):
        wanted: Row = {
            "path": request.path,
            "resolved_path": b"",
            "return_code": result,
            "fd": max(result, -1),
            "error": "",
        }
        wanted |= {
            "dirfd": -100,
            "flags": 0,
            "mode": 0,
            "resolve": 0,
            "quality": [],
            "deleted": False,
        } | own
        wanted |= {"exe": bytes(program), "ppid": os.getpid(), "uid": USER, "gid": USER}
        assert {field: row[field] for field in wanted} == wanted, request
        assert row["duration_ns"] > 0
    assert (
        sum(row["comm"].startswith(comm) for row in rows) >= 4
    )  # a creation is a worker's in any case


def test_a_thousand_requests_are_a_thousand_rows(
    requests_recorded: Recording, folder: Path, program: Path
) -> None:
    """Of 1,000 requests, 32 at a time, each has its row with its own path and result."""
    names = [bytes(folder / ("given" if i % 2 else f"missing-{i}")) for i in range(1000)]
    requests_recorded.clear()
    made = make_requests(program, USER, [Request(name) for name in names])
    requests_recorded.wait("open")
    assert requests_recorded.recorder.untraced() == NONE
    rows = rows_of(requests_recorded, made)
    assert paths(rows) == list(zip(names, made.results, strict=True))
    assert {row["resolved_path"] for row in rows if row["return_code"] >= 0} == {
        bytes(folder / "given")
    }
    assert {row["return_code"] < 0 for row in rows[::2]} == {True}
    assert all(row["quality"] == [] for row in rows)


def test_full_ring_hides_no_request(
    requests_recorded: Recording, folder: Path, program: Path
) -> None:
    """Requests have their rows when the program never reads completions, or asks for none."""
    names = [bytes(folder / "given"), *[bytes(folder / f"missing-{i}") for i in range(20)]]
    requests_recorded.clear()
    full = make_requests(
        program, USER, [Request(name) for name in names], NEVER_TAKE, completions=2
    )
    silent = make_requests(program, USER, [Request(name, sqe_flags=SILENT) for name in names[:2]])
    requests_recorded.wait("open")
    assert requests_recorded.recorder.untraced() == NONE
    assert set(full.results) == {NOT_COMPLETED}
    assert [path for path, _ in paths(rows_of(requests_recorded, full))] == names
    assert {code for _, code in paths(rows_of(requests_recorded, full))[1:]} == {-2}
    first, second, failed = rows_of(requests_recorded, silent)
    assert [(row["path"], row["quality"]) for row in (first, second)] == [
        (name, ["resolved_path_missing", "return_code_missing"]) for name in names[:2]
    ]
    assert (failed["error"], failed["quality"]) == (
        "ENOENT",
        UNKNOWN,
    )  # a failure is a second row


def test_request_rejected_at_submission_is_recorded(
    requests_recorded: Recording, program: Path
) -> None:
    """A request that the kernel rejects at submission has a row that flags its unknown fields."""
    requests_recorded.clear()
    made = make_requests(
        program,
        USER,
        [Request(8), Request(b""), Request(b"/" + b"x" * 5000), Request(b"/", how=bytes(8))],
    )
    requests_recorded.wait("open")
    rows = rows_of(requests_recorded, made)
    assert sorted(row["error"] for row in rows) == ["EFAULT", "EINVAL", "ENAMETOOLONG", "ENOENT"]
    assert all(row["quality"] == UNKNOWN for row in rows)


def changed(without: str = "", **defines: int) -> ModuleType:
    """The probe, without one of its functions, or with other defines."""

    @hookimpl
    def load_bpf(kernel: Any, options: Any) -> Any:
        program = infrasight_probe_open.plugin.load_bpf(kernel, options)
        attach = tuple(point for point in program.attach if without not in point.functions)
        return evolve(program, attach=attach, defines={**program.defines, **defines})

    module = ModuleType("changed")
    vars(module).update(vars(infrasight_probe_open.plugin), load_bpf=load_bpf)
    return module


def test_requests_beyond_the_table_are_flagged(folder: Path, program: Path) -> None:
    """With room for 8 of 32 requests in progress, the other rows are flagged and counted."""
    with recording("open", changed(REQUESTS=8), filters=MINE) as recorded:
        made = make_requests(program, USER, [Request(bytes(folder / "given"))] * 64)
    rows = rows_of(recorded, made)
    unknown = [row for row in rows if row["quality"] == UNKNOWN]
    assert (len(rows), len(unknown)) == (64, recorded.counts.entries_full)
    assert 0 < len(unknown) < 64
    assert {row["resolved_path"] for row in rows} == {bytes(folder / "given")}
    assert {row["path"] for row in rows if row not in unknown} == {bytes(folder / "given")}


def test_requests_without_a_completion_are_counted(folder: Path, program: Path) -> None:
    """Without the overflow tracepoint, lost requests are counted when their memory is reused."""
    before = REGISTRY.get_sample_value(METRIC, {"way": "io_uring"}) or 0
    with recording("open", changed(without="overflowed"), filters=MINE) as recorded:
        made = make_requests(
            program, USER, [Request(bytes(folder / "given"))] * 21, NEVER_TAKE, completions=2
        )
        untraced = recorded.recorder.untraced()
    rows = len(rows_of(recorded, made))
    assert 0 < 21 - rows - 2 <= untraced["io_uring"] <= 21 - rows
    assert recorded.recorder.untraced() == untraced
    assert (REGISTRY.get_sample_value(METRIC, {"way": "io_uring"}) or 0) - before == untraced[
        "io_uring"
    ]
