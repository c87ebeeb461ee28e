"""The whole system: server and agents as processes, on free ports, and queries to it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from infrasight_core.cli import query

from infrasight_testbed.ports import free_port

BIN = Path(sys.executable).parent
WAIT_SECONDS = 120.0
STOP_SECONDS = 60  # a busy machine stores the last batches late
POLL_SECONDS = 0.1


def until(done: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Waits until a condition holds; fails with `what` when the time is over."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)


class Process:
    """One running command.

    Args:
        command: What to run.
        log: The file for its stderr.
        status: `host:port` of its status server.
        environment: Further variables.
    """

    def __init__(
        self,
        command: list[str | Path],
        log: Path,
        status: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = log
        self._log_begin = len(self.log()) if log.exists() else 0  # what earlier processes wrote
        self._status = status
        with log.open("ab") as stderr:
            environ = {**os.environ, "PYTHONFAULTHANDLER": "1", **(environment or {})}
            self._process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr, env=environ
            )

    def is_recording(self) -> bool:
        """Whether an agent has attached its probes."""
        return '"recording"' in self.log()[self._log_begin :]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def log(self) -> str:
        """Its log so far."""
        return self._log.read_text(errors="replace")

    def get(self, page: str) -> str:
        """A page of its status server; empty while the server is down."""
        try:
            with urllib.request.urlopen(f"http://{self._status}/{page}", timeout=10) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.read().decode())
        except OSError:
            return ""

    def metric(self, name: str) -> float:
        """The sum of the samples whose line begins with `name`; 0 without any."""
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self.get("metrics").splitlines()
            if line.startswith(name)
        )

    def ready(self) -> bool:
        """Whether it reports that it is ready."""
        assert self._process.poll() is None, self.log()
        try:
            with urllib.request.urlopen(f"http://{self._status}/readyz", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS + 30)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # Python then writes its threads' stacks
            self._process.wait()
            raise AssertionError(f"it does not stop:\n{self.log()[-8000:]}") from None

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()
        self._process.wait()


class System:
    """A server with its store, and agents.

    Args:
        folder: For data and logs.
        store: `embedded` or a ClickHouse URL.
        database: The database of the tables.

    Attributes:
        address: Where the server listens; the tests of TLS and of images set a port.
    """

    def __init__(self, folder: Path, store: str = "embedded", database: str = "infrasight") -> None:
        self._folder = folder
        self._store = store
        self._database = database
        self.address = f"unix:{folder}/run/s"  # a short name, because paths of sockets are bounded
        self._server_status, self._agent_status = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self._started: list[Process] = []

    @property
    def store_folder(self) -> Path:
        """Where the embedded store has its files."""
        return self._folder / "store"

    @property
    def spool_folder(self) -> Path:
        """Where the agent has its spool."""
        return self._folder / "spool"

    def start_server(
        self,
        *options: str,
        environment: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (),
    ) -> Process:
        """Starts the server and waits until it is ready.

        Args:
            options: Of the command.
            environment: Further variables.
            launcher: A command that executes the server's.
        """
        command: list[str | Path] = [*launcher, BIN / "infrasight-server"]
        command += ["--listen", self.address, "--status-listen", self._server_status]
        command += ["--data", self._folder, "--store", self._store]
        command += ["--database", self._database, *options]
        identifies_peers = any(option.startswith(("--tls-", "--tokens")) for option in options)
        if not self.address.startswith("unix:") and not identifies_peers:
            command.append("--plaintext")
        server = self._start(command, "server.log", self._server_status, environment)
        until(server.ready, "the server is ready")
        return server

    def start_agent(
        self,
        *options: str,
        ready: bool = True,
        every_probe: bool = False,
        environment: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (),
    ) -> Process:
        """Starts an agent.

        Args:
            options: Of the command.
            ready: Whether to wait until it records and streams; else only until it records.
            every_probe: Whether it runs every installed probe; else it runs execve, unless the
                options name other probes or a file.
            environment: Further variables.
            launcher: A command that executes the agent's.
        """
        command: list[str | Path] = [*launcher, BIN / "infrasight", "agent"]
        command += ["--server", self.address]
        command += ["--status-listen", self._agent_status, "--node", "node-a"]
        command += ["--spool", self.spool_folder, *options]
        if not every_probe and not {"--probe", "--config"} & set(options):
            command += ["--probe", "execve"]
        environment = {"INFRASIGHT_AGENT_STOP_SECONDS": str(STOP_SECONDS), **(environment or {})}
        agent = self._start(command, "agent.log", self._agent_status, environment)
        until(agent.ready if ready else agent.is_recording, "the agent is ready")
        return agent

    def _start(
        self,
        command: list[str | Path],
        log: str,
        status: str,
        environment: dict[str, str] | None = None,
    ) -> Process:
        process = Process(command, self._folder / log, status, environment)
        self._started.append(process)
        return process

    def query(self, sql: str, *options: str) -> list[dict[str, Any]]:
        """The rows of `infrasight query`, run in this process: starting Python takes longer."""
        arguments = ["--format", "json", "--server", self.address, *options, "--", sql]
        result = CliRunner().invoke(query.command, arguments)
        assert result.exit_code == 0, f"{result.exception}\n{result.output}"
        return [json.loads(line) for line in result.stdout.splitlines()]

    def rows(self, marker: str, columns: str = "*") -> list[dict[str, Any]]:
        """The execve events with the marker as second argument, by time."""
        return self.query(
            f"SELECT {columns} FROM execve_events WHERE argv[2] = '{marker}' "
            "ORDER BY time, sequence"
        )

    def stop(self) -> None:
        """Stops what still runs, agents first."""
        for process in reversed(self._started):
            process.stop()


@contextmanager
def running_system(
    folder: Path, store: str = "embedded", database: str = "infrasight"
) -> Iterator[System]:
    """Runs a system; in the end nothing of it is left running."""
    system = System(folder, store, database)
    try:
        yield system
    finally:
        system.stop()


def loopback_address() -> str:
    """An address with a free port."""
    return f"127.0.0.1:{free_port()}"


def execute(marker: str, count: int, first: int = 0) -> None:
    """Executes /bin/true `count` times, with the marker and a running number."""
    for number in range(first, first + count):
        subprocess.run(["/bin/true", marker, str(number)], check=True)
