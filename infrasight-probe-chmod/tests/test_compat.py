"""Mode changes by 32-bit programs: known calls become exactly the expected rows."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from infrasight_recording import Recording
from infrasight_testbed.chmod_rows import NOT_HAD, changed
from infrasight_testbed.compat import Call, build, make_calls, one_file_at_a_time, only_x86

pytestmark = [only_x86, one_file_at_a_time]
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
COMMON = {
    "via": "compat",
    "dirfd": AT_FDCWD,
    "fd": -1,
    "at_flags": 0,
    "error": "",
    "old_mode": 0,
    "quality": NOT_HAD,
}


@pytest.mark.parametrize("bits", [32, 64])
def test_every_32_bit_chmod_call_is_recorded(recorded: Recording, bits: int) -> None:
    """All four calls of the 32-bit ABI are recorded, from a 32-bit and from a 64-bit program."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        file = folder / "file"
        file.touch()
        file.chmod(0o600)
        path = bytes(file)
        missing = bytes(folder / "missing")
        at_missing = {"path": missing, "resolved_path": missing, "error": "ENOENT"}
        descriptor = os.open(file, os.O_RDONLY)
        by_descriptor = {"path": b"", "resolved_path": path, "quality": []}
        empty = {
            "dirfd": descriptor,
            "at_flags": AT_EMPTY_PATH,
            "old_mode": 0o4755,
            "quality": ["path_user_memory"],
        }
        calls: list[tuple[Call, dict[str, Any]]] = [
            (("chmod", [path, 0o640]), {"path": path, "mode": 0o640, **changed(0o600, path)}),
            (("chmod", [missing, 0o640]), at_missing | {"mode": 0o640}),
            (
                ("fchmod", [descriptor, 0o4755]),
                by_descriptor | {"fd": descriptor, "mode": 0o4755, "old_mode": 0o640},
            ),
            (("fchmodat", [AT_FDCWD, missing, 0o600]), at_missing | {"mode": 0o600}),
            (
                ("fchmodat2", [descriptor, b"", 0o444, AT_EMPTY_PATH]),
                by_descriptor | empty | {"mode": 0o444},
            ),
        ]
        program = build(folder, bits)
        recorded.clear()
        made = make_calls(program, [call for call, _ in calls], given=[descriptor])
        os.close(descriptor)
        recorded.wait("chmod")
    if made.results[-1] == -38:  # ENOSYS before Linux 6.6; the call is recorded
        calls[-1][1].update(error="ENOSYS")
    rows = recorded.rows_of(made.pid)
    assert len(rows) == len(made.results) == len(calls)
    for row, (call, own), result in zip(rows, calls, made.results, strict=True):
        wanted = COMMON | {"return_code": result, "exe": bytes(program), "tid": made.pid} | own
        assert {field: row[field] for field in wanted} == wanted, call
        assert row["duration_ns"] > 0
