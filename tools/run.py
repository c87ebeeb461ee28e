"""Runs all of InfraSight on this machine: a server with its embedded store, an agent, a live view.

`make run` starts it. Events go to standard output (a live table on a terminal, JSON lines in a
pipe), everything else to standard error. Ctrl-C, SIGTERM, SIGHUP, the end of the pipe, or the end
of any part stops all parts. Environment:

    INFRASIGHT_RUN_PORT                  the server's gRPC port                       [7443]
    INFRASIGHT_RUN_SERVER_STATUS_PORT    its /metrics, /healthz and /readyz           [7444]
    INFRASIGHT_RUN_AGENT_STATUS_PORT     those of the agent                           [7445]
    INFRASIGHT_RUN_DATA                  the folder of the store and the logs         [./data]

Exit status: 0 when stopped, 1 when a part fails, 2 for wrong usage.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType

from attrs import define, field, frozen

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
DEFAULT_PORT = 7443
PORTS = {
    "INFRASIGHT_RUN_PORT": DEFAULT_PORT,
    "INFRASIGHT_RUN_SERVER_STATUS_PORT": 7444,
    "INFRASIGHT_RUN_AGENT_STATUS_PORT": 7445,
}
QUERY = "SELECT argv, return_code, user, comm FROM execve_events ORDER BY time DESC LIMIT 5"
READY_SECONDS = 180.0
STOP_SECONDS = 15.0
LOG_LINES = 15
PR_SET_PDEATHSIG = 1


class RunError(Exception):
    """A failure and its remedy, in one line."""


@frozen
class Settings:
    """Where the parts listen and write.

    Attributes:
        port: The server's gRPC port.
        server_status: The port of the server's /readyz.
        agent_status: The port of the agent's /readyz.
        data: The folder of the store; its folder `logs` has one file for each part.
    """

    port: int
    server_status: int
    agent_status: int
    data: Path

    @classmethod
    def from_environment(cls) -> "Settings":
        """Reads the variables. Raises RunError for an invalid port, or one that is in use."""
        port, server_status, agent_status = (
            _free_port(name, default) for name, default in PORTS.items()
        )
        if len({port, server_status, agent_status}) < len(PORTS):
            raise RunError(f"the three ports must differ; see {', '.join(PORTS)}")
        data = Path(os.environ.get("INFRASIGHT_RUN_DATA", "") or ROOT / "data").absolute()
        return cls(port, server_status, agent_status, data)

    @property
    def server(self) -> str:
        """The server's address."""
        return f"127.0.0.1:{self.port}"


def _free_port(variable: str, default: int) -> int:
    text = os.environ.get(variable, "") or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise RunError(f"{variable}={text!r} is not a port; give a number from 1 to 65535")
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise RunError(
                f"port {text} is not available ({error.strerror}); choose another: {variable}=..."
            ) from error
    return int(text)


@define
class Part:
    """A process in its own process group, so that Ctrl-C on the terminal reaches this script only.

    Attributes:
        name: Its name in messages and of its log file.
        command: The command line.
        log: The file for its output; None for this script's own output.
        process: The process, once started.
    """

    name: str
    command: list[str | Path]
    log: Path | None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Starts the process, which gets SIGTERM if this script is killed."""
        output = None if self.log is None else self.log.open("wb")
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent,
        )
        if output is not None:
            output.close()

    def check_running(self) -> None:
        """Raises RunError, with the last lines of the log, if the process has ended."""
        status = self.process.poll()
        if status is None:
            return
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        if self.log is None:
            raise RunError(f"{self.name} ended {how}")
        lines = self.log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        excerpt = "".join(f"\n  {line}" for line in lines[-LOG_LINES:])
        raise RunError(f"the {self.name} ended {how}; the last lines of {self.log}:{excerpt}")

    def stop(self) -> None:
        """Asks the process to end, and kills what is left of its group after a while."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            report(f"the {self.name} does not stop; killing it")
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def output_is_closed() -> bool:
    """Whether standard output is a pipe without a reader, or a terminal that has hung up."""
    output = select.poll()
    output.register(1, 0)  # errors and hang-ups are reported without being asked for
    return bool(output.poll(0))


def report(text: str) -> None:
    """Writes to standard error; a terminal that has hung up must not keep the parts running."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def wait_until_ready(part: Part, port: int, stopping: threading.Event) -> None:
    """Returns when the part's /readyz reports success, or when this script is to stop.

    Raises:
        RunError: The part ended, or is not ready in time; with its own reason.
    """
    started = time.monotonic()
    reason = "it does not answer"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not stopping.wait(0.1):
        part.check_running()
        try:
            with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=5):
                report(f"{part.name} ready after {time.monotonic() - started:.1f} s")
                return
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "backslashreplace").strip()
        except OSError:
            reason = "it does not answer"
        if time.monotonic() - started > READY_SECONDS:
            raise RunError(
                f"the {part.name} is not ready after {READY_SECONDS:.0f} s: {reason}; "
                f"see {part.log}"
            )


def run(settings: Settings, stopping: threading.Event) -> None:
    """Runs the parts until `stopping` is set or the output has no reader; always stops all parts.

    Raises:
        RunError: A part ended, or did not become ready.
    """
    logs = settings.data / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write to {settings.data} ({error.strerror}); choose another folder: "
            "INFRASIGHT_RUN_DATA=..."
        ) from error
    report(f"server on {settings.server}, data and logs in {settings.data}")
    started: list[Part] = []

    def start(part: Part) -> Part:
        part.start()
        started.append(part)
        return part

    try:
        server = start(_server(settings, logs))
        agent_settings = settings.data / "agent.toml"
        # Each event that the store writes opens files: the server's own events would fill the view.
        agent_settings.write_text(
            f"[filters.all]\nexclude_pid = [{server.process.pid}]\n", encoding="utf-8"
        )
        wait_until_ready(server, settings.server_status, stopping)
        if stopping.is_set():
            return
        agent = start(_agent(settings, agent_settings, logs))
        wait_until_ready(agent, settings.agent_status, stopping)
        if stopping.is_set():
            return
        option = "" if settings.port == DEFAULT_PORT else f" --server {settings.server}"
        report("query from another terminal; Ctrl-C here stops everything:")
        report(f'  .venv/bin/infrasight query{option} "{QUERY}"')
        start(_view(settings))
        while not stopping.wait(0.2) and not output_is_closed():
            for part in started:
                part.check_running()
    finally:
        for part in reversed(started):
            part.stop()


def _server(settings: Settings, logs: Path) -> Part:
    command: list[str | Path] = [
        BIN / "infrasight-server",
        f"--listen={settings.server}",
        f"--status-listen=127.0.0.1:{settings.server_status}",
        f"--data={settings.data}",
    ]
    return Part("server", command, logs / "server.log")


def _agent(settings: Settings, agent_settings: Path, logs: Path) -> Part:
    command: list[str | Path] = [
        BIN / "infrasight",
        "agent",
        f"--server={settings.server}",
        f"--status-listen=127.0.0.1:{settings.agent_status}",
        f"--config={agent_settings}",
    ]
    return Part("agent", command, logs / "agent.log")


def _view(settings: Settings) -> Part:
    command: list[str | Path] = [BIN / "infrasight", "tail", f"--server={settings.server}"]
    return Part("infrasight tail", command, log=None)


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) > 1:
        report(__doc__ or "")
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        run(Settings.from_environment(), stopping)
    except RunError as error:
        report(f"run: {error}")
        return 1
    report("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
