"""Executions by 32-bit programs: known calls become exactly the expected rows."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_recording import Recording
from infrasight_testbed.compat import build, make_calls, one_file_at_a_time, only_x86

pytestmark = [only_x86, one_file_at_a_time]
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
USER_MEMORY = ["filename_user_memory", "argv_user_memory"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder without symbolic links in its own path."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


@pytest.mark.parametrize("bits", [32, 64])
def test_every_32_bit_exec_call_is_recorded(recorded: Recording, folder: Path, bits: int) -> None:
    """execve and execveat of the 32-bit ABI, failing and succeeding, with all their arguments."""
    missing = bytes(folder / "missing")
    many = [b"argument-%d" % i for i in range(100)]
    program = build(folder, bits)
    calls = make_calls(
        program,
        [
            ("execve", [missing, [b"mark", b"", b"\xff\n"], 0]),
            ("execveat", [AT_FDCWD, missing, many, 0, AT_SYMLINK_NOFOLLOW]),
            ("execve", [bytes(folder), [], 0]),
            ("execve", [b"/bin/true", [b"true", b"it is"], 0]),
        ],
    )
    recorded.wait("execve")
    rows = recorded.rows_of(calls.pid)
    columns = ("via", "filename", "argv", "error", "at_flags", "quality")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("syscall", bytes(program), [bytes(program)], "", 0, []),
        ("compat", missing, [b"mark", b"", b"\xff\n"], "ENOENT", 0, USER_MEMORY),
        ("compat", missing, many, "ENOENT", AT_SYMLINK_NOFOLLOW, USER_MEMORY),
        ("compat", bytes(folder), [], "EACCES", 0, USER_MEMORY),
        ("compat", b"/bin/true", [b"true", b"it is"], "", 0, []),
    ]
    assert [row["exe"] for row in rows] == [bytes(program)] * 4 + [
        bytes(Path("/bin/true").resolve())
    ]
    assert [row["argv_length"] for row in rows[1:]] == [9, sum(len(a) + 1 for a in many), 0, 11]
    assert {(row["dirfd"], row["tid"], row["ppid"]) for row in rows} == {
        (AT_FDCWD, calls.pid, os.getpid())
    }
    assert min(row["duration_ns"] for row in rows) > 0


def test_via_is_of_the_calling_program(recorded: Recording, folder: Path) -> None:
    """A 64-bit program that starts a 32-bit one makes a `syscall`, the 32-bit one `compat`."""
    program = build(folder, 32)
    calls = make_calls(program, [("execve", [bytes(program), [b"again"], 0])])
    recorded.wait("execve")
    ways = [(row["via"], row["argv"]) for row in recorded.rows_of(calls.pid)]
    assert ways == [("syscall", [bytes(program)]), ("compat", [b"again"])]
