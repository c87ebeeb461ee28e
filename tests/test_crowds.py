"""Difficult processes: 1,000 threads in one call, killed in it, renamed, in own namespaces."""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import infrasight_probe_execve.plugin
import infrasight_probe_open.plugin
import pytest
from infrasight_recording import recording
from infrasight_testbed.system import until

THREADS = 1000
# Opens the FIFO named by its argument in as many threads; each waits in the kernel for a writer.
CROWD = f"""
import os, sys, threading
threading.stack_size(128 << 10)
fifo = (sys.argv[1], os.O_RDONLY)
threads = [threading.Thread(target=os.open, args=fifo) for _ in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
EXECUTES = """
import os, threading, time
for _ in range(50): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
threading.Thread(target=os.execv, args=("/bin/true", ["true", "mark-threads"])).start()
time.sleep(60)
"""
PR_SET_NAME = 15


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO without a writer."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def waiting(pid: int) -> int:
    """The number of a process's threads that wait in open(2) of a FIFO."""
    tasks = Path(f"/proc/{pid}/task").glob("*/wchan")
    return sum(task.read_text() in ("wait_for_partner", "fifo_open") for task in tasks)


def crowd_rows(table: Any, fifo: Path) -> list[dict[str, Any]]:
    """The rows of the FIFO."""
    return [row for row in table.to_pylist() if row["path"] == bytes(fifo)]


@pytest.mark.alone
@pytest.mark.parametrize("killed", [False, True])
def test_thousand_threads_in_one_call_have_a_row_each(fifo: Path, killed: bool) -> None:
    """Of 1,000 calls in progress at once each has its thread's row, also when SIGKILL ends them."""
    with (
        recording("open", infrasight_probe_open.plugin) as recorded,
        subprocess.Popen([sys.executable, "-c", CROWD, fifo]) as crowd,
    ):
        until(lambda: waiting(crowd.pid) == THREADS, "they all wait in the kernel")
        if killed:
            crowd.kill()
        else:
            os.close(os.open(fifo, os.O_WRONLY))
    recorded.assert_accounted()
    assert recorded.counts.entries_full == 0
    rows = [row for row in crowd_rows(recorded.table, fifo) if row["pid"] == crowd.pid]
    assert len({row["tid"] for row in rows}) == len(rows) == THREADS
    for row in rows:
        assert (row["return_code"] < 0) == killed
        assert row["quality"] == ["path_user_memory"]
        assert row["resolved_path"] == (b"" if killed else bytes(fifo))
        assert row["duration_ns"] > 0
    assert {row["process_key"] for row in rows} == {rows[0]["process_key"]}


def test_renamed_process_has_its_current_name(tmp_path: Path) -> None:
    """Each row has the thread's name at that moment, with any byte; the executable stays."""
    names = [b"innocent", b"[kworker/0:1]", b"\xff\xfe\n\x01", b"fifteen bytes!!"]

    def work() -> None:
        libc = ctypes.CDLL(None)
        for number, name in enumerate(names):
            libc.prctl(PR_SET_NAME, name, 0, 0, 0)
            (tmp_path / str(number)).touch()

    with recording("open", infrasight_probe_open.plugin) as recorded:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    rows = [row for row in recorded.table.to_pylist() if row["path"].startswith(bytes(tmp_path))]
    assert [row["comm"] for row in sorted(rows, key=lambda row: row["path"])] == names
    assert {row["exe"] for row in rows} == {os.fsencode(Path(sys.executable).resolve())}


def test_process_in_own_namespaces_has_host_pids(tmp_path: Path) -> None:
    """In own namespaces pids are the host's, and paths are those of the process's mounts."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").touch()
    script = f"mount --bind {tmp_path}/inner /mnt && echo $$ > /dev/null && exec cat /mnt/file"
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "sh",
        "-c",
        script,
    ]
    with recording("open", infrasight_probe_open.plugin) as recorded:
        done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in recorded.table.to_pylist() if row["path"] == b"/mnt/file"]
    assert row["resolved_path"] == b"/mnt/file"
    assert row["pid"] > 1
    assert row["uid"] == 0
    shells = [
        r for r in recorded.table.to_pylist() if r["comm"] == b"sh" and r["pid"] == row["pid"]
    ]
    assert shells, "the shell that executed cat had the same pid"
    assert {r["process_key"] for r in shells} == {row["process_key"]}


def test_execution_by_one_of_many_threads_is_one_row() -> None:
    """When one of many threads executes a program, there is one row, with the process's pid."""
    with (
        recording("execve", infrasight_probe_execve.plugin) as recorded,
        subprocess.Popen([sys.executable, "-c", EXECUTES]) as process,
    ):
        assert process.wait(60) == 0
    (row,) = [
        row for row in recorded.table.to_pylist() if row["argv"] == [b"true", b"mark-threads"]
    ]
    assert (row["pid"], row["tid"], row["return_code"]) == (process.pid, process.pid, 0)
