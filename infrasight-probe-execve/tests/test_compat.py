"""What 32-bit programs execute: known calls in, exactly those rows out, field by field."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import infrasight_probe_execve.plugin
import pytest
from infrasight_recording import recording
from infrasight_testbed.compat import build, make_calls, only_x86

pytestmark = only_x86
AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
USER_MEMORY = ["filename_user_memory", "argv_user_memory"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


@pytest.mark.parametrize("bits", [32, 64])
def test_every_32_bit_call_that_executes(folder: Path, bits: int) -> None:
    """execve and execveat of the 32-bit ABI that fail, and one that succeeds: arguments whole, as the call gave them."""
    missing, many = bytes(folder / "missing"), [b"argument-%d" % i for i in range(100)]
    program = build(folder, bits)
    with recording("execve", infrasight_probe_execve.plugin) as kept:
        made = make_calls(
            program,
            [
                ("execve", [missing, [b"mark", b"", b"\xff\n"], 0]),
                ("execveat", [AT_FDCWD, missing, many, 0, AT_SYMLINK_NOFOLLOW]),
                ("execve", [bytes(folder), [], 0]),
                ("execve", [b"/bin/true", [b"true", b"it is"], 0]),
            ],
        )
    rows = sorted(
        (row for row in kept.table.to_pylist() if row["pid"] == made.pid),
        key=lambda row: row["time"],
    )
    asked = [
        (row["via"], row["filename"], row["argv"], row["error"], row["at_flags"], row["quality"])
        for row in rows
    ]
    assert asked == [
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
        (AT_FDCWD, made.pid, os.getpid())
    }
    assert min(row["duration_ns"] for row in rows) > 0


def test_who_executes_a_32_bit_program_is_not_one(folder: Path) -> None:
    """`via` is of the call, not of what it began: a 64-bit program's call is `syscall`, and a 32-bit program's is `compat`."""
    program = build(folder, 32)
    with recording("execve", infrasight_probe_execve.plugin) as kept:
        made = make_calls(program, [("execve", [bytes(program), [b"again"], 0])])
    rows = kept.table.sort_by("time").to_pylist()  # of two CPUs, maybe
    ways = [(row["via"], row["argv"]) for row in rows if row["pid"] == made.pid]
    assert ways == [("syscall", [bytes(program)]), ("compat", [b"again"])]
