"""Opens by 32-bit programs: known calls become exactly the expected rows."""

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_recording import Recording
from infrasight_testbed.compat import Call, build, make_calls, one_file_at_a_time, only_x86

pytestmark = [only_x86, one_file_at_a_time]
AT_FDCWD = -100
BENEATH = 8
COMMON = {
    "via": "compat",
    "dirfd": AT_FDCWD,
    "flags": 0,
    "mode": 0,
    "resolve": 0,
    "error": "",
    "quality": ["path_user_memory"],
}
OPENAT2 = {"quality": ["path_user_memory", "flags_user_memory"]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a file `given`."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "given").touch()
        yield Path(name).resolve()


@pytest.mark.parametrize("bits", [32, 64])
def test_every_32_bit_open_call_is_recorded(recorded: Recording, folder: Path, bits: int) -> None:
    """All four calls are recorded, from a 32-bit program and from a 64-bit one by `int $0x80`."""
    given = bytes(folder / "given")
    missing = bytes(folder / "missing")
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    asked = struct.pack("=QQQ", create, 0o640, BENEATH)
    directory = os.open(folder, os.O_RDONLY)
    calls: list[tuple[Call, dict[str, Any]]] = [
        (("open", [given, 0, 0]), {"resolved_path": given}),
        (
            ("open", [given + b"1", create, 0o640]),
            {"resolved_path": given + b"1", "flags": create, "mode": 0o640},
        ),
        (
            ("creat", [given + b"2", 0o600]),
            {"resolved_path": given + b"2", "flags": 0o1101, "mode": 0o600},
        ),
        (
            ("openat", [directory, b"given", os.O_RDWR]),
            {"dirfd": directory, "resolved_path": given, "flags": 2},
        ),
        (("openat", [AT_FDCWD, missing, 0]), {"error": "ENOENT"}),
        (
            ("open", [8, 0]),
            {"error": "EFAULT", "path": b"", "quality": ["path_missing", "path_user_memory"]},
        ),
        (
            ("openat2", [directory, b"given3", asked, 24]),
            {
                "dirfd": directory,
                "flags": create,
                "mode": 0o640,
                "resolve": 8,
                "resolved_path": given + b"3",
            }
            | OPENAT2,
        ),
        (
            ("openat2", [AT_FDCWD, given, asked, 8]),
            {"error": "EINVAL", "flags": create, "mode": 0o640, "resolve": 8} | OPENAT2,
        ),
    ]
    program = build(folder, bits)
    recorded.clear()
    made = make_calls(program, [call for call, _ in calls], given=[directory])
    os.close(directory)
    recorded.wait("open")
    rows = [row for row in recorded.rows_of(made.pid) if row["via"] != "syscall"]
    assert len(rows) == len(made.results) == len(calls)
    for row, ((name, arguments), own), result in zip(rows, calls, made.results, strict=True):
        path = arguments[0] if name in ("open", "creat") else arguments[1]
        wanted = (
            COMMON
            | {"path": path, "resolved_path": b"", "return_code": result, "fd": max(result, -1)}
            | own
        )
        wanted |= {
            "exe": bytes(program),
            "comm": program.name.encode(),
            "ppid": os.getpid(),
            "tid": made.pid,
            "uid": 0,
        }
        assert {field: row[field] for field in wanted} == wanted, (name, arguments)
        assert row["duration_ns"] > 0
    assert recorded.recorder.untraced() == {"x32": 0, "io_uring": 0}


def test_via_of_an_ordinary_call_is_syscall(recorded: Recording, folder: Path) -> None:
    """`via` of a call that is neither of a 32-bit program nor of io_uring is `syscall`."""
    recorded.clear()
    (folder / "given").read_bytes()
    recorded.wait("open")
    rows = recorded.rows_of(os.getpid())
    ways = {row["via"] for row in rows if row["path"] == bytes(folder / "given")}
    assert ways == {"syscall"}
