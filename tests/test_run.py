"""`make run`: a server, an agent and a live view, started and stopped together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.local_user import LocalUser
from infrasight_testbed.run_script import PORTS, SECONDS, RunScript, free_ports
from infrasight_testbed.system import until

SCRIPT = Path(__file__).parents[1] / "tools" / "run.py"
INFRASIGHT = Path(sys.executable).with_name("infrasight")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
one_more_end = pytest.mark.slow(reason="starts everything for one more way to end")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RunScript]]:
    """Starts the script, with one probe, which loads faster; kills it after the test."""
    monkeypatch.setenv("INFRASIGHT_AGENT_PROBES", "execve")
    started: list[RunScript] = []

    def make(*command: str, terminal: bool = False) -> RunScript:
        started.append(RunScript(tmp_path, *command, terminal=terminal))
        return started[-1]

    yield make
    for script in started:
        script.close()


@needs_root
@pytest.mark.alone
def test_make_run_shows_events_that_a_query_returns(
    start: Callable[..., RunScript], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An execution is a JSON line on stdout and a row in SQL; SIGTERM to make ends everything.

    What server and store do themselves is not recorded, although the store opens files for each
    insert.
    """
    monkeypatch.delenv("INFRASIGHT_AGENT_PROBES")  # as people run it
    run = start("make", "run")
    run.wait_for_event("seen")
    complete_lines = run.output.rpartition(b"\n")[0].splitlines()
    events = [json.loads(line) for line in complete_lines]
    shown = next(event for event in events if event.get("argv") == ["/bin/true", "seen"])
    assert (shown["probe"], shown["return_code"], shown["uid"]) == ("execve", 0, 0)
    sql = (
        "SELECT argv, return_code, user FROM execve_events WHERE argv[2] = 'seen' "
        "ORDER BY time LIMIT 1"
    )

    def query(sql: str) -> dict[str, Any]:
        command = [str(INFRASIGHT), "query", f"--server={run.server}"]
        command += [f"--server-user={run.server_user()}", sql]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        row: dict[str, Any] = json.loads(answer.stdout)
        return row

    assert query(sql) == {"argv": ["/bin/true", "seen"], "return_code": 0, "user": "root"}
    # Rows are stored now, so the store has opened files; this file is opened after those.
    mark = str(run.data / "opened-later")
    Path(mark).touch()
    marked = f"SELECT count() > 0 AS is_stored FROM open_events WHERE path = '{mark}'"
    until(lambda: bool(query(marked)["is_stored"]), "the later open is stored", SECONDS)
    server, store = run.server_processes()
    own = f"SELECT count() AS opens FROM open_events WHERE pid IN ({server}, {store})"
    assert query(own) == {"opens": 0}
    for folder in ("logs", "store"):
        assert LocalUser().attempt("os.listdir(arguments)", str(run.data / folder)) == "EACCES"
    assert (run.server_user() == 0) == ("the server runs as root" in run.messages())
    assert len(run.left_over()) >= 4
    run.process.terminate()
    run.wait()
    assert run.left_over() == []
    assert "stopped" in run.messages()


@needs_root
@one_more_end
def test_run_names_a_part_that_dies(start: Callable[..., RunScript]) -> None:
    """A killed agent: its name, the last lines of its log, the rest is stopped, status 1."""
    run = start()
    run.wait_for_event("alive")
    os.kill(run.part("agent"), signal.SIGKILL)
    assert run.wait() == 1
    assert (
        f"the agent ended by SIGKILL; the last lines of {run.data}/logs/agent.log:\n  {{"
        in run.messages()
    )
    assert run.left_over() == []


@needs_root
def test_run_shows_a_table_on_a_terminal_until_ctrl_c(start: Callable[..., RunScript]) -> None:
    """On a terminal events are a table; Ctrl-C restores the cursor and ends every process."""
    run = start(terminal=True)
    run.wait_for_event("typed")
    assert b'"argv"' not in run.output
    run.type("\x03")
    assert run.wait() == 0
    assert run.left_over() == []
    assert run.output.count(b"\x1b[?25l") <= run.output.count(b"\x1b[?25h")


@needs_root
@one_more_end
def test_run_stops_when_its_terminal_hangs_up(start: Callable[..., RunScript]) -> None:
    """Closing the terminal stops everything."""
    run = start(terminal=True)
    run.wait_for_event("there")
    run.hang_up()
    assert run.left_over(60) == []


@needs_root
@one_more_end
def test_run_stops_when_its_pipe_has_no_reader(start: Callable[..., RunScript]) -> None:
    """When the reader of its pipe ends, it stops everything; that is no failure."""
    run = start("bash", "-o", "pipefail", "-c", f"{sys.executable} tools/run.py | head -n 1")
    # On a quiet machine there is no event but this one; elsewhere another may be first.
    deadline = time.monotonic() + SECONDS
    while run.process.poll() is None and time.monotonic() < deadline:
        subprocess.run(["/bin/true", "there"], check=True)
        time.sleep(0.5)
    assert run.wait() == 0, run.messages()
    assert json.loads(run.output)["probe"] in {"accept", "chmod", "connect", "execve", "open"}
    assert run.left_over() == []


@needs_root
@one_more_end
def test_run_killed_leaves_no_process(start: Callable[..., RunScript]) -> None:
    """SIGKILL, which no program can handle, still ends every part."""
    run = start()
    run.wait_for_event("there")
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert run.left_over(60) == []


@pytest.fixture
def reject(tmp_path: Path) -> Callable[..., str]:
    """Runs the script with settings that it must reject; returns its one line on stderr."""

    def run(**settings: str) -> str:
        env = {
            **os.environ,
            **dict(zip(PORTS, map(str, free_ports()), strict=True)),
            "INFRASIGHT_RUN_DATA": str(tmp_path),
        }
        shown = subprocess.run(
            [sys.executable, SCRIPT],
            env=env | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 1
        assert shown.stdout == ""
        assert shown.stderr.count("\n") == 1
        return shown.stderr

    return run


def test_run_names_a_port_in_use(reject: Callable[..., str]) -> None:
    """A port in use is named, with the variable to set."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = reject(INFRASIGHT_RUN_SERVER_STATUS_PORT=port)
    assert line == (
        f"run: port {port} is not available (Address already in use); "
        "choose another: INFRASIGHT_RUN_SERVER_STATUS_PORT=...\n"
    )


def test_run_names_an_invalid_port(reject: Callable[..., str]) -> None:
    """A value that is not a port: the variable, the value and what is allowed."""
    assert (
        reject(INFRASIGHT_RUN_SERVER_STATUS_PORT="x")
        == "run: INFRASIGHT_RUN_SERVER_STATUS_PORT='x' is not a port; "
        "give a number from 1 to 65535\n"
    )


def test_run_names_an_unwritable_data_directory(reject: Callable[..., str], tmp_path: Path) -> None:
    """A data directory that cannot be created: its name and the variable to set."""
    (tmp_path / "file").touch()
    line = reject(INFRASIGHT_RUN_DATA=str(tmp_path / "file"))
    assert line.startswith(f"run: cannot write to {tmp_path / 'file'}")
    assert "INFRASIGHT_RUN_DATA=" in line
