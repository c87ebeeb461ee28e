"""`infrasight trace`: events of this machine without a server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infrasight_core.cli.trace import needed_capabilities
from infrasight_core.console.seccomp import DANGEROUS_CALLS
from infrasight_testbed.cgroups import run_in_cgroups, temporary_cgroup
from infrasight_testbed.command import restore_interrupt
from infrasight_testbed.fake_docker import fake_docker
from infrasight_testbed.process_rights import restricted_to, rights
from infrasight_testbed.system import until

INFRASIGHT = [str(Path(sys.executable).with_name("infrasight"))]


@contextmanager
def tracing(
    output: Path, *arguments: str, within: Sequence[str] = (), log: list[str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Runs `infrasight trace` with its output in a file; in the context, it records.

    Args:
        output: The file.
        arguments: The arguments of `trace`.
        within: A command that runs the rest of its command line.
        log: Receives what it logs before it records.
    """
    with output.open("w") as out:
        command = [*within, *INFRASIGHT, "trace", *arguments]
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=restore_interrupt,
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("recording"):
                    break
                if log is not None:
                    log.append(line)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def test_trace_writes_every_event_as_a_json_line(tmp_path: Path) -> None:
    """Twenty-three executions: twenty-three JSON lines with their arguments; status 0 after Ctrl-C.

    Ctrl-C right after the last execution drops none.
    """
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


def test_trace_names_the_container_of_a_program(tmp_path: Path) -> None:
    """A program in a container's cgroup, created while trace records, has its id; others none."""
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


def shown(output: Path) -> list[dict[str, Any]]:
    """The events in a file that may still be written."""
    complete_lines = output.read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in complete_lines]


def test_trace_drops_privileges_and_still_names_users_and_containers(tmp_path: Path) -> None:
    """No thread has a right to load programs; names of users and of containers still arrive.

    The socket of the container runtime, which only root may use, is in a separate /run.
    """
    container = f"{os.getpid():064x}"
    output = tmp_path / "out"
    log: list[str] = []
    with fake_docker({container: {}}) as socket:
        socket.chmod(0o600)
        isolate = f'mount --bind {socket.parent} /run && exec "$@"'
        within = ["unshare", "--mount", "--propagation", "private", "sh", "-c", isolate, "sh"]
        with (
            tracing(output, "execve", "--log-level=info", within=within, log=log) as process,
            temporary_cgroup(0, f"/infrasight-rights-{os.getpid()}/docker/{container}") as folder,
        ):
            needed = needed_capabilities()
            assert rights(process.pid) == {restricted_to(*needed)}

            def is_named() -> bool:
                run_in_cgroups([folder], "/bin/true", "mark-rights")
                rows = [row for row in shown(output) if row["argv"][-1:] == ["mark-rights"]]
                return any(row["container_image"] == "i" for row in rows)

            until(is_named, "the runtime reports the container")
            subprocess.run(["/bin/true", "mark-rights"], check=True, user=65534)
            assert rights(process.pid) == {restricted_to(*needed)}
    rows = [row for row in shown(output) if row["argv"] == ["/bin/true", "mark-rights"]]
    assert {row["container_id"] for row in rows} == {container, ""}
    assert {row["user"] for row in rows} == {"root", "nobody"}
    (logged,) = [line for line in map(json.loads, log) if line["event"] == "privileges restricted"]
    assert logged["level"] == "info"
    assert logged["capabilities"] == needed
    assert logged["dropped_capabilities"] > 0
    assert logged["denied_system_calls"] == len(DANGEROUS_CALLS) + 1


def test_trace_does_not_log_its_privileges_unless_asked(tmp_path: Path) -> None:
    """Before it records, stderr is empty."""
    log: list[str] = []
    with tracing(tmp_path / "out", "execve", log=log):
        pass
    assert log == []


def test_trace_knows_processes_that_proc_hides(tmp_path: Path) -> None:
    """With /proc mounted `hidepid=2`, without CAP_SYS_PTRACE: no field is missing."""
    hide = (
        "mount -t proc -o hidepid=2,gid=4242 proc /proc && "
        'exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$@"'
    )
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


def test_trace_where_shows_only_matching_events(tmp_path: Path) -> None:
    """--where comm and uid: only events that match both are shown."""
    with tracing(tmp_path / "out", "execve", "--where", "comm=tru*", "--where", "uid=65534"):
        subprocess.run(["/bin/true", "root"], check=True)
        subprocess.run(["/bin/true", "nobody"], check=True, user=65534)
        subprocess.run(["/bin/false", "nobody"], check=False, user=65534)
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["argv"] for row in rows] == [["/bin/true", "nobody"]]


def test_trace_reports_an_unknown_probe_in_one_line() -> None:
    """A probe that is not installed: its name, what is installed, status 1, no traceback."""
    done = subprocess.run(
        [*INFRASIGHT, "trace", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("infrasight: no installed plugin is called 'nonsense'")
    assert "execve" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_trace_reports_a_missing_capability_in_one_line() -> None:
    """A user who may not load BPF: one line with the reason and where to look, status 1."""
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*without, *INFRASIGHT, "trace", "execve"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "execve" in done.stderr
    assert "infrasight doctor" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
