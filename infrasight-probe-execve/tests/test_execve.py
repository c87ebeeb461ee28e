"""The probe execve under the running kernel: known workloads in, exactly those rows out, field by field."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import infrasight_probe_execve.plugin
import pytest
from infrasight_recording import Recording, recording

Row = dict[str, Any]
WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"


def rows_of(kept: Recording, marker: bytes) -> list[Row]:
    """The rows whose arguments or filename hold the marker, in order of time."""
    rows: list[Row] = kept.table.to_pylist()
    mine = [row for row in rows if marker in b"\0".join([row["filename"], *row["argv"]])]
    return sorted(mine, key=lambda row: row["time"])


def record_one(work: Callable[[], object], marker: bytes) -> Row:
    """The one row that `work` makes."""
    with recording("execve", infrasight_probe_execve.plugin) as kept:
        work()
    assert kept.counts.dropped == 0
    rows = rows_of(kept, marker)
    assert len(rows) == 1, rows
    return rows[0]


def execute(
    *argv: bytes | str | Path, program: str | Path | None = None, uid: int | None = None
) -> int:
    """Forks and executes with exactly these arguments; returns the child's pid. A failed call ends the child with 127."""
    pid = os.fork()
    if pid == 0:
        try:
            if uid is not None:
                os.setgid(uid)
                os.setuid(uid)
            os.execv(program or argv[0], argv)
        except OSError:
            os._exit(127)
    os.waitpid(pid, 0)
    return pid


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a workload by name."""
    folder = tmp_path_factory.mktemp("workloads")
    folder.chmod(0o755)

    def compile_(name: str) -> Path:
        if not (folder / name).exists():
            subprocess.run(
                ["cc", "-O2", "-pthread", "-o", folder / name, WORKLOADS / f"{name}.c"], check=True
            )
        return folder / name

    return compile_


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are for one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_23_known_calls_are_exactly_23_rows(open_folder: Path) -> None:
    """Twenty-three execs with known arguments, users and outcomes in: exactly those out, field by field."""
    forbidden, no_format = open_folder / "forbidden", open_folder / "no-format"
    forbidden.write_text("#!/bin/sh\n")
    no_format.write_bytes(b"\x01\x02not a program")
    no_format.chmod(0o755)
    wanted = []
    with recording("execve", infrasight_probe_execve.plugin) as kept:
        for number in range(23):
            argv = [b"mark-23", str(number).encode(), *[b"x" * i for i in range(number % 5)]]
            uid = 65534 if number % 2 else 0
            program, code, error = [
                (Path("/bin/true"), 0, ""),
                (open_folder / "missing", -2, "ENOENT"),
                (forbidden, -13, "EACCES"),
                (no_format, -8, "ENOEXEC"),
            ][number % 4]
            pid = execute(*argv, program=program, uid=uid)
            wanted.append((pid, argv, uid, program, code, error))
    rows = rows_of(kept, b"mark-23")
    assert len(rows) == len(wanted) == 23
    for row, (pid, argv, uid, program, code, error) in zip(rows, wanted, strict=True):
        assert row["argv"] == argv
        assert row["argv_length"] == sum(len(a) + 1 for a in argv)
        assert row["filename"] == bytes(program)
        assert (row["return_code"], row["error"]) == (code, error)
        assert (row["pid"], row["tid"], row["ppid"]) == (pid, pid, os.getpid())
        assert (row["uid"], row["gid"]) == (uid, uid)
        assert row["user"] == pwd.getpwuid(uid).pw_name.encode()
        assert row["cwd"] == os.fsencode(Path.cwd())
        assert row["parent_comm"] == Path("/proc/self/comm").read_bytes().rstrip()
        assert row["exe"] == bytes(
            (Path("/bin/true") if code == 0 else Path("/proc/self/exe")).resolve()
        )
        assert row["comm"] == (
            b"true" if code == 0 else Path("/proc/self/comm").read_bytes().rstrip()
        )
        assert row["duration_ns"] > 0
        assert row["quality"] == ([] if code == 0 else ["filename_user_memory", "argv_user_memory"])


@pytest.mark.parametrize("count", [1, 21, 500])
@pytest.mark.parametrize("program", ["/bin/true", "/nonexistent"])
def test_every_argument_is_there(count: int, program: str) -> None:
    """1, 21 and 500 arguments are there, each whole, of a successful and of a failed call."""
    argv = [b"mark-many", *[b"argument-%d" % i for i in range(count - 1)]]
    assert record_one(lambda: execute(*argv, program=program), b"mark-many")["argv"] == argv


@pytest.mark.parametrize("program", ["/bin/true", "/nonexistent"])
def test_arguments_beyond_32_kib_are_cut_and_say_so(program: str) -> None:
    """100 KiB of arguments: the first 32 KiB are kept, the row is flagged, the true length is there."""
    argv = [b"mark-long", *[b"%04d" % i + b"y" * 1019 for i in range(100)]]
    row = record_one(lambda: execute(*argv, program=program), b"mark-long")
    assert "argv_cut" in row["quality"]
    assert row["argv_length"] == sum(len(a) + 1 for a in argv)
    kept = row["argv"]
    assert sum(len(a) + 1 for a in kept) > 31 << 10
    assert kept[:-1] == argv[: len(kept) - 1]
    assert argv[len(kept) - 1].startswith(kept[-1])


@pytest.mark.parametrize("program", ["/bin/true", "/nonexistent"])
def test_any_byte_arrives_as_it_is(program: str) -> None:
    """Empty strings, invalid UTF-8, newlines and control characters are kept exactly."""
    argv = [b"mark-bytes", b"", b"\xff\xfe\x80", b"two\nlines", b"", bytes(range(1, 256)), b""]
    assert record_one(lambda: execute(*argv, program=program), b"mark-bytes")["argv"] == argv


def test_a_thread_that_executes_takes_the_place_of_its_group(
    compiled: Callable[[str], Path],
) -> None:
    """An exec from a thread: the row has the group's pid and tid, the new image's arguments, and the call's own duration."""
    started: list[int] = []

    def work() -> None:
        process = subprocess.Popen([compiled("thread_exec"), "/bin/true"])
        started.append(process.pid)
        assert process.wait() == 0

    row = record_one(work, b"from-thread")
    assert (row["pid"], row["tid"]) == (started[0], started[0])
    assert row["argv"] == [b"/bin/true", b"from-thread"]
    assert row["quality"] == []
    assert row["duration_ns"] > 0


def test_a_script_shows_its_interpreter(tmp_path: Path) -> None:
    """A script: filename is the script as called, exe the interpreter, argv what the interpreter was given."""
    script = tmp_path / "mark-script"
    script.write_text("#!/bin/sh -e\nexit 0\n")
    script.chmod(0o755)
    row = record_one(lambda: execute(b"name-zero", b"one", program=script), b"mark-script")
    assert row["filename"] == bytes(script)
    assert row["exe"] == bytes(Path("/bin/sh").resolve())
    assert row["argv"] == [b"/bin/sh", b"-e", bytes(script), b"one"]


def test_a_program_that_is_only_in_memory(compiled: Callable[[str], Path]) -> None:
    """execveat of a memfd: the executable is the memfd, the descriptor and the flags are the call's."""
    row = record_one(
        lambda: subprocess.run([compiled("memfd_exec"), "/bin/true"], check=True), b"in memory"
    )
    assert row["exe"] == b"/memfd:hidden"
    assert row["argv"] == [b"innocent", b"in memory"]
    assert row["filename"] == b"/dev/fd/%d" % row["dirfd"]
    assert row["at_flags"] == 0x1000  # AT_EMPTY_PATH
    assert row["quality"] == []


def test_two_hundred_short_lived_processes_at_once() -> None:
    """Two hundred processes that end at once: two hundred rows with the right parents, none without its fields."""
    with recording("execve", infrasight_probe_execve.plugin) as kept:
        processes = [subprocess.Popen(["/bin/true", "mark-swarm", str(i)]) for i in range(200)]
        assert {process.wait() for process in processes} == {0}
    rows = rows_of(kept, b"mark-swarm")
    assert sorted(int(row["argv"][2]) for row in rows) == list(range(200))
    assert {row["pid"] for row in rows} == {process.pid for process in processes}
    assert {row["ppid"] for row in rows} == {os.getpid()}
    assert len({row["parent_process_key"] for row in rows}) == 1
    assert len({row["process_key"] for row in rows}) == 200
    assert all(
        row["exe"] == bytes(Path("/bin/true").resolve()) and row["quality"] == [] for row in rows
    )


def test_parents_and_grandparents() -> None:
    """A process's row names its parent and its parent's parent by the keys of their own rows, though all of them are gone."""
    with recording("execve", infrasight_probe_execve.plugin) as kept:
        inner = "/bin/true mark-line child; :"
        subprocess.run(
            ["/bin/sh", "-c", '/bin/sh -c "$2" "$0" parent; :', "mark-line", "grandparent", inner],
            check=True,
        )
    marked = [row for row in kept.table.to_pylist() if b"mark-line" in row["argv"]]
    rows = {row["argv"][row["argv"].index(b"mark-line") + 1]: row for row in marked}
    child, parent, grandparent = (rows[name] for name in (b"child", b"parent", b"grandparent"))
    assert child["parent_process_key"] == parent["process_key"]
    assert (
        child["grandparent_process_key"]
        == parent["parent_process_key"]
        == grandparent["process_key"]
    )
    assert parent["grandparent_process_key"] == grandparent["parent_process_key"] != 0
