"""`infrasight trace`: events of this machine without a server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infrasight_testbed.cgroups import run_in_cgroups, temporary_cgroup

INFRASIGHT = [str(Path(sys.executable).with_name("infrasight"))]


@contextmanager
def tracing(
    output: Path, *arguments: str, within: Sequence[str] = ()
) -> Iterator["subprocess.Popen[str]"]:
    """Runs `infrasight trace` into a file, by a command that runs others where one is given; inside, it records."""
    with output.open("w") as out:
        command = [*within, *INFRASIGHT, "trace", *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("recording"):
                    break
            time.sleep(0.2)
            yield process
            time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def test_a_file_gets_every_event_as_a_json_line(tmp_path: Path) -> None:
    """Twenty-three programs are executed: twenty-three JSON lines with their arguments, and status 0 after SIGTERM."""
    with tracing(tmp_path / "out", "execve") as process:
        for number in range(23):
            subprocess.run(["/bin/true", "mark-trace", str(number)], check=True)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    mine = [row for row in rows if row["argv"][:2] == ["/bin/true", "mark-trace"]]
    assert [row["argv"][2] for row in sorted(mine, key=lambda r: r["time"])] == [
        str(n) for n in range(23)
    ]
    assert {row["ppid"] for row in mine} == {os.getpid()}
    assert process.returncode == 0


def test_who_is_in_a_container_is_said(tmp_path: Path) -> None:
    """A program that runs in a container's cgroup, made while it records: the container's id; beside it, none."""
    container = f"{os.getpid():064x}"
    with (
        tracing(tmp_path / "out", "execve"),
        temporary_cgroup(0, f"/infrasight-trace-{os.getpid()}/docker/{container}") as folder,
    ):
        run_in_cgroups([folder], "/bin/true", "mark-container")
        subprocess.run(["/bin/true", "mark-container"], check=True)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    mine = [row for row in rows if row["argv"] == ["/bin/true", "mark-container"]]
    assert [row["container_id"] for row in sorted(mine, key=lambda r: r["time"])] == [container, ""]
    assert not any("container_id_missing" in row["quality"] for row in mine)


def test_who_is_known_though_proc_hides_it(tmp_path: Path) -> None:
    """With /proc mounted `hidepid=2`, and without the right to look past it: rows of another user's programs lack nothing."""
    hide = 'mount -t proc -o hidepid=2,gid=4242 proc /proc && exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$@"'
    within = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"]
    with tracing(tmp_path / "out", "execve", within=within) as process:
        with subprocess.Popen(["sleep", "60"], user="nobody") as other:
            look = [
                "setpriv",
                "--bounding-set",
                "-sys_ptrace",
                "--inh-caps",
                "-sys_ptrace",
                "ls",
                f"/proc/{other.pid}",
            ]
            inside = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", *look]
            assert (
                subprocess.run(inside, capture_output=True, check=False).returncode != 0
            )  # it is hidden indeed
            other.kill()
        subprocess.run(["/bin/true", "mark-hidden"], check=True, user="nobody")
    (row,) = [
        row
        for row in map(json.loads, (tmp_path / "out").read_text().splitlines())
        if row["argv"][-1:] == ["mark-hidden"]
    ]
    assert (row["user"], row["group_name"], row["comm"], row["ppid"]) == (
        "nobody",
        "root",
        "true",
        os.getpid(),
    )
    assert row["exe"].endswith("/true")
    assert row["quality"] == []
    assert min(row["process_key"], row["parent_process_key"], row["grandparent_process_key"]) > 0


def test_where_keeps_only_what_fits(tmp_path: Path) -> None:
    """--where comm and uid: only events for which both hold are shown."""
    with tracing(tmp_path / "out", "execve", "--where", "comm=tru*", "--where", "uid=65534"):
        subprocess.run(["/bin/true", "root"], check=True)
        subprocess.run(["/bin/true", "nobody"], check=True, user=65534)
        subprocess.run(["/bin/false", "nobody"], check=False, user=65534)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["argv"] for row in rows] == [["/bin/true", "nobody"]]


def test_an_unknown_probe_is_one_clear_line() -> None:
    """A probe that is not installed: its name, what is installed, status 1, no traceback."""
    done = subprocess.run(
        [*INFRASIGHT, "trace", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("infrasight: no installed plugin is called 'nonsense'")
    assert "execve" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_capability_is_one_clear_line() -> None:
    """A user who may not load BPF: one line that says so and where to look, status 1."""
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*without, *INFRASIGHT, "trace", "execve"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "execve" in done.stderr
    assert "infrasight doctor" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
