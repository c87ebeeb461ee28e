"""The probe execve on the running kernel: known calls become exactly the expected rows."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_recording import Recording
from infrasight_testbed.syscalls import call, in_child
from infrasight_testbed.system import until

Row = dict[str, Any]
Rows = Callable[[Callable[[], object], bytes], list[Row]]
OneRow = Callable[[Callable[[], object], bytes], Row]
AT_FDCWD = -100
WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"


@pytest.fixture
def rows_with(recorded: Recording) -> Rows:
    """Does some work; returns the rows whose filename or arguments hold a marker, by time."""

    def record(work: Callable[[], object], marker: bytes) -> list[Row]:
        recorded.clear()
        work()
        recorded.wait("execve")
        rows: list[Row] = recorded.table.to_pylist()
        marked = [row for row in rows if marker in b"\0".join([row["filename"], *row["argv"]])]
        return sorted(marked, key=lambda row: row["time"])

    return record


@pytest.fixture
def row_with(rows_with: Rows) -> OneRow:
    """Does some work; returns the only row whose filename or arguments hold a marker."""

    def record(work: Callable[[], object], marker: bytes) -> Row:
        rows = rows_with(work, marker)
        assert len(rows) == 1, rows
        return rows[0]

    return record


def execute(
    *argv: bytes | str | Path, program: str | Path | None = None, uid: int | None = None
) -> int:
    """Forks and executes with exactly these arguments; returns the child's pid.

    If the call fails, the child ends with 127.
    """
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
    """A folder that every user may enter; pytest's folders belong to one user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_execve_records_23_known_calls_as_23_rows(rows_with: Rows, open_folder: Path) -> None:
    """23 calls with known arguments, users and outcomes are 23 rows, right in every field."""
    forbidden = open_folder / "forbidden"
    no_format = open_folder / "no-format"
    forbidden.write_text("#!/bin/sh\n")
    no_format.write_bytes(b"\x01\x02not a program")
    no_format.chmod(0o755)
    expected = []

    def work() -> None:
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
            expected.append((pid, argv, uid, program, code, error))

    rows = rows_with(work, b"mark-23")
    assert len(rows) == len(expected) == 23
    for row, (pid, argv, uid, program, code, error) in zip(rows, expected, strict=True):
        assert row["argv"] == argv
        assert row["argv_length"] == sum(len(a) + 1 for a in argv)
        assert row["filename"] == bytes(program)
        assert (row["return_code"], row["error"]) == (code, error)
        assert (row["pid"], row["tid"], row["ppid"]) == (pid, pid, os.getpid())
        assert (row["uid"], row["gid"]) == (uid, uid)
        assert row["user"] == pwd.getpwuid(uid).pw_name.encode()
        assert row["cwd"] == os.fsencode(Path.cwd())
        assert row["parent_comm"] == Path("/proc/self/comm").read_bytes().rstrip()
        assert row["duration_ns"] > 0
        if code == 0:
            assert row["exe"] == bytes(Path("/bin/true").resolve())
            assert row["comm"] == b"true"
            assert row["quality"] == []
        else:
            assert row["exe"] == bytes(Path("/proc/self/exe").resolve())
            assert row["comm"] == Path("/proc/self/comm").read_bytes().rstrip()
            assert row["quality"] == ["filename_user_memory", "argv_user_memory"]


@pytest.mark.parametrize("count", [1, 21, 500])
@pytest.mark.parametrize("program", ["/bin/true", "/nonexistent"])
def test_execve_records_every_argument(row_with: OneRow, count: int, program: str) -> None:
    """All of 1, 21 and 500 arguments are recorded, for successful and failed calls."""
    argv = [b"mark-many", *[b"argument-%d" % i for i in range(count - 1)]]
    assert row_with(lambda: execute(*argv, program=program), b"mark-many")["argv"] == argv


@pytest.mark.parametrize("program", ["/bin/true", "/nonexistent"])
def test_arguments_beyond_32_kib_are_cut_and_flagged(row_with: OneRow, program: str) -> None:
    """Of 100 KiB of arguments the row holds the first 32 KiB, a flag and the true length."""
    argv = [b"mark-long", *[b"%04d" % i + b"y" * 1019 for i in range(100)]]
    row = row_with(lambda: execute(*argv, program=program), b"mark-long")
    assert "argv_cut" in row["quality"]
    assert row["argv_length"] == sum(len(a) + 1 for a in argv)
    recorded_argv = row["argv"]
    last = len(recorded_argv) - 1
    assert sum(len(a) + 1 for a in recorded_argv) > 31 << 10
    assert recorded_argv[:last] == argv[:last]
    assert argv[last].startswith(recorded_argv[last])


@pytest.mark.parametrize("program", ["/bin/true", "/nonexistent"])
def test_arguments_keep_every_byte(row_with: OneRow, program: str) -> None:
    """Empty strings, invalid UTF-8, newlines and control characters are recorded unchanged."""
    argv = [b"mark-bytes", b"", b"\xff\xfe\x80", b"two\nlines", b"", bytes(range(1, 256)), b""]
    assert row_with(lambda: execute(*argv, program=program), b"mark-bytes")["argv"] == argv


def test_null_arguments_of_a_failed_call_are_an_empty_list(
    row_with: OneRow, open_folder: Path
) -> None:
    """The kernel takes NULL for an empty list, so no flag says that arguments are missing."""
    program = bytes(open_folder / "null-arguments")

    def work() -> None:
        in_child(lambda: call("execveat", AT_FDCWD, program, 0, 0, 0))

    row = row_with(work, program)
    assert row["argv"] == []
    assert row["argv_length"] == 0
    assert row["error"] == "ENOENT"
    assert row["quality"] == ["filename_user_memory"]


def test_program_that_the_kernel_starts_has_via_kernel(rows_with: Rows, open_folder: Path) -> None:
    """The release agent of a cgroup is started by a kernel thread, without any call."""
    program = open_folder / "release-agent"
    shutil.copy("/bin/true", program)
    hierarchy = open_folder / "hierarchy"
    hierarchy.mkdir()
    options = f"none,name={open_folder.name}"
    command = ["mount", "-t", "cgroup", "-o", options, "cgroup", str(hierarchy)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this kernel mounts no cgroup v1 hierarchy: {mounted.stderr.strip()}")
    cgroup = hierarchy / "emptied"
    try:
        (hierarchy / "release_agent").write_text(str(program))
        cgroup.mkdir()
        (cgroup / "notify_on_release").write_text("1")

        rows: list[Row] = []

        def work() -> None:
            in_child(lambda: (cgroup / "cgroup.procs").write_text("0"))

        def has_started() -> bool:
            rows.extend(rows_with(work, bytes(program)))
            return bool(rows)

        # The kernel starts the program some time after the last process has left.
        until(has_started, "the release agent's row")
    finally:
        if cgroup.exists():
            cgroup.rmdir()
        subprocess.run(["umount", hierarchy], check=True)
    assert rows[0]["argv"] == [bytes(program), b"/emptied"]
    assert rows[0]["via"] == "kernel"
    assert rows[0]["quality"] == []
    assert rows[0]["duration_ns"] == 0


def test_exec_from_a_thread_has_the_pid_of_its_process(
    row_with: OneRow, compiled: Callable[[str], Path]
) -> None:
    """The row has the process's pid as tid, the new image's arguments and the call's duration."""
    started: list[int] = []

    def work() -> None:
        process = subprocess.Popen([compiled("thread_exec"), "/bin/true"])
        started.append(process.pid)
        assert process.wait() == 0

    row = row_with(work, b"from-thread")
    assert (row["pid"], row["tid"]) == (started[0], started[0])
    assert row["argv"] == [b"/bin/true", b"from-thread"]
    assert row["quality"] == []
    assert row["duration_ns"] > 0


def test_script_row_names_its_interpreter(row_with: OneRow, tmp_path: Path) -> None:
    """`filename` is the script, `exe` its interpreter, `argv` the interpreter's arguments."""
    script = tmp_path / "mark-script"
    script.write_text("#!/bin/sh -e\nexit 0\n")
    script.chmod(0o755)
    row = row_with(lambda: execute(b"name-zero", b"one", program=script), b"mark-script")
    assert row["filename"] == bytes(script)
    assert row["exe"] == bytes(Path("/bin/sh").resolve())
    assert row["argv"] == [b"/bin/sh", b"-e", bytes(script), b"one"]


def test_execveat_of_a_memfd_names_the_memfd(
    row_with: OneRow, compiled: Callable[[str], Path]
) -> None:
    """The executable is the memfd; the descriptor and the flags are those of the call."""
    command: list[str | Path] = [compiled("memfd_exec"), "/bin/true"]
    row = row_with(lambda: subprocess.run(command, check=True), b"in memory")
    assert row["exe"] == b"/memfd:hidden"
    assert row["argv"] == [b"innocent", b"in memory"]
    assert row["filename"] == b"/dev/fd/%d" % row["dirfd"]
    assert row["at_flags"] == 0x1000  # AT_EMPTY_PATH
    assert row["quality"] == []


def test_200_short_lived_processes_are_200_complete_rows(rows_with: Rows) -> None:
    """Processes that end at once have complete rows with the right parents."""
    processes: list[subprocess.Popen[bytes]] = []

    def work() -> None:
        for number in range(200):
            processes.append(subprocess.Popen(["/bin/true", "mark-swarm", str(number)]))
        assert {process.wait() for process in processes} == {0}

    rows = rows_with(work, b"mark-swarm")
    assert sorted(int(row["argv"][2]) for row in rows) == list(range(200))
    assert {row["pid"] for row in rows} == {process.pid for process in processes}
    assert {row["ppid"] for row in rows} == {os.getpid()}
    assert len({row["parent_process_key"] for row in rows}) == 1
    assert len({row["process_key"] for row in rows}) == 200
    assert {row["exe"] for row in rows} == {bytes(Path("/bin/true").resolve())}
    assert all(row["quality"] == [] for row in rows)


def test_rows_link_to_parent_and_grandparent_by_key(rows_with: Rows) -> None:
    """A row names its parent and grandparent by the keys of their rows, though they have ended."""
    inner = "/bin/true mark-line child; :"
    outer = '/bin/sh -c "$2" "$0" parent; :'
    command = ["/bin/sh", "-c", outer, "mark-line", "grandparent", inner]
    rows = {}
    for row in rows_with(lambda: subprocess.run(command, check=True), b"mark-line"):
        if b"mark-line" in row["argv"]:
            role = row["argv"][row["argv"].index(b"mark-line") + 1]
            rows[role] = row
    child, parent, grandparent = (rows[role] for role in (b"child", b"parent", b"grandparent"))
    assert child["parent_process_key"] == parent["process_key"]
    assert parent["parent_process_key"] == grandparent["process_key"]
    assert child["grandparent_process_key"] == grandparent["process_key"]
    assert parent["grandparent_process_key"] == grandparent["parent_process_key"] != 0
