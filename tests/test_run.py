"""`make run`: a server, an agent and the events, started and stopped together."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[1]
INFRASIGHT = Path(sys.executable).with_name("infrasight")
SECONDS = 90

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")


class Run:
    """`tools/run.py` on ports and in a folder of its own.

    Attributes:
        mark: In the environment of everything that it starts.
        port: The server's.
        process: The running script.
        lines: Its standard output so far.
    """

    def __init__(self, data: Path, ports: list[int], *command: str) -> None:
        self.mark, self.port, self.data = uuid.uuid4().hex, ports[0], data
        self.lines: queue.Queue[str] = queue.Queue()
        names = ("INFRASIGHT_PORT", "INFRASIGHT_SERVER_STATUS_PORT", "INFRASIGHT_AGENT_STATUS_PORT")
        settings = dict(zip(names, map(str, ports), strict=True)) | {"INFRASIGHT_DATA": str(data), "INFRASIGHT_MARK": self.mark}
        self.errors = data.with_suffix(".stderr")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command or (sys.executable, "tools/run.py"),
                cwd=ROOT,
                env={**os.environ, **settings, "PYTHON": sys.executable},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                process_group=0,
            )
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self.reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.put(line)

    def said(self) -> str:
        """Its standard error so far."""
        return self.errors.read_text(encoding="utf-8")

    def wait_for_event(self, word: str) -> dict[str, object]:
        """Runs `true WORD` until an event says so."""
        for _ in range(SECONDS):
            assert self.process.poll() is None, self.said()
            if "Ctrl-C" in self.said():
                subprocess.run(["/bin/true", word], check=True)
            deadline = time.monotonic() + 1
            while (left := deadline - time.monotonic()) > 0:
                try:
                    line = self.lines.get(timeout=left)
                except queue.Empty:
                    break
                event: dict[str, object] = json.loads(line)
                if event["argv"] == ["/bin/true", word]:
                    return event
        raise AssertionError(f"no event of {word}: {self.said()}")

    def left_over(self) -> list[int]:
        """The processes that carry its mark."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def ended(self) -> int:
        """Its exit status, once it and its output have ended."""
        status = self.process.wait(SECONDS)
        self.reader.join()
        return status

    def close(self) -> None:
        """Leaves nothing of it, whatever the test saw."""
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def ports() -> list[int]:
    """Three free ports."""
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for s in (a, b, c):
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in (a, b, c)]


@pytest.fixture
def run(tmp_path: Path, ports: list[int]) -> Iterator[Run]:
    """A running whole."""
    running = Run(tmp_path / "data", ports)
    yield running
    running.close()


@needs_root
def test_events_are_shown_and_can_be_asked_for(run: Run) -> None:
    """A program's execution is a JSON line on standard output and a row for SQL; SIGTERM ends all with status 0."""
    event = run.wait_for_event("seen")
    assert event["return_code"] == 0
    assert event["uid"] == 0
    sql = "SELECT argv, return_code, user FROM execve_events WHERE argv[2] = 'seen' ORDER BY time LIMIT 1"
    server = f"--server=127.0.0.1:{run.port}"
    shown = subprocess.run([INFRASIGHT, "query", server, sql], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == {"argv": ["/bin/true", "seen"], "return_code": 0, "user": "root"}
    assert len(run.left_over()) >= 4
    run.process.terminate()
    assert run.ended() == 0
    assert run.left_over() == []
    assert "stopped" in run.said()
    assert (run.data / "logs" / "agent.log").exists()


@needs_root
def test_a_part_that_dies_is_named(run: Run) -> None:
    """When the agent is killed, the script says so with its log's last lines and stops the rest with status 1."""
    run.wait_for_event("alive")
    agent = next(pid for pid in run.left_over() if b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(agent, signal.SIGKILL)
    assert run.ended() == 1
    assert "the agent ended by SIGKILL; the last lines of" in run.said()
    assert run.left_over() == []


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_ends(run: Run, number: signal.Signals) -> None:
    """Ctrl-C and the end of the terminal, which reach the whole process group, stop everything too."""
    run.wait_for_event("there")
    os.killpg(run.process.pid, number)
    assert run.ended() == 0
    assert run.left_over() == []


@needs_root
def test_killed_leaves_nothing(run: Run) -> None:
    """Even SIGKILL, which no program can act upon, leaves no part behind."""
    run.wait_for_event("there")
    run.process.kill()
    assert run.ended() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while run.left_over() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.left_over() == []


@needs_root
def test_make_run_stops_on_sigterm(tmp_path: Path, ports: list[int]) -> None:
    """SIGTERM to `make run` reaches the parts, nothing but events is on its standard output, and nothing is left."""
    running = Run(tmp_path / "data", ports, "make", "run")
    try:
        running.wait_for_event("made")
        running.process.terminate()
        running.ended()
        assert running.left_over() == []
    finally:
        running.close()


def test_a_taken_port_is_named(tmp_path: Path, ports: list[int]) -> None:
    """A port in use, or a value that is none, is one line with the variable to set, and nothing is started."""
    script = [sys.executable, str(ROOT / "tools" / "run.py")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {**os.environ, "INFRASIGHT_PORT": port, "INFRASIGHT_DATA": str(tmp_path)}
        shown = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert shown.stderr == f"run: port {port} is taken (Address already in use); choose another with INFRASIGHT_PORT=…\n"
    shown = subprocess.run(script, env={**env, "INFRASIGHT_PORT": "x"}, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert shown.stderr == "run: INFRASIGHT_PORT='x' is not a port; give a number from 1 to 65535\n"


def test_an_unwritable_data_directory_is_named(tmp_path: Path, ports: list[int]) -> None:
    """A data directory that cannot be is one line with the variable to set."""
    (tmp_path / "file").touch()
    names = ("INFRASIGHT_PORT", "INFRASIGHT_SERVER_STATUS_PORT", "INFRASIGHT_AGENT_STATUS_PORT")
    env = {**os.environ, **dict(zip(names, map(str, ports), strict=True)), "INFRASIGHT_DATA": str(tmp_path / "file")}
    shown = subprocess.run([sys.executable, ROOT / "tools" / "run.py"], env=env, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"run: cannot write to {tmp_path / 'file'}")
    assert "INFRASIGHT_DATA=" in shown.stderr
    assert shown.stderr.count("\n") == 1
