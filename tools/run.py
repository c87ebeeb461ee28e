"""The whole of InfraSight on this machine: a server with its embedded store, an agent, and the events as they are stored.

`make run` starts it. Events go to standard output (a live table on a terminal, JSON lines in a pipe), everything else to
standard error. Ctrl-C, SIGTERM, SIGHUP, the end of the pipe, or the end of any part stops all parts. Settings:

    INFRASIGHT_RUN_PORT                  the server's gRPC port                   7443
    INFRASIGHT_RUN_SERVER_STATUS_PORT    its /metrics, /healthz and /readyz       7444
    INFRASIGHT_RUN_AGENT_STATUS_PORT     the same of the agent                    7445
    INFRASIGHT_RUN_DATA                  the folder of the store and the logs     ./data
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
QUERY = "SELECT argv, return_code, user, comm FROM execve_events ORDER BY time DESC LIMIT 5"
READY_SECONDS = 180.0
STOP_SECONDS = 15.0
LOG_LINES = 15
PR_SET_PDEATHSIG = 1


class RunError(Exception):
    """What failed and what to do, in one line."""


@frozen
class Settings:
    """Where the parts listen and write.

    Attributes:
        port: The server's gRPC port.
        server_status: The port of its /readyz.
        agent_status: The port of the agent's.
        data: The folder of the store; `logs` in it has one file for each part.
    """

    port: int
    server_status: int
    agent_status: int
    data: Path

    @classmethod
    def from_environment(cls) -> "Settings":
        """Raises RunError for a value that is no port, or a port that is taken."""
        ports = []
        for name, default in (
            ("INFRASIGHT_RUN_PORT", 7443),
            ("INFRASIGHT_RUN_SERVER_STATUS_PORT", 7444),
            ("INFRASIGHT_RUN_AGENT_STATUS_PORT", 7445),
        ):
            text = os.environ.get(name, "") or str(default)
            if not text.isdecimal() or not 0 < int(text) < 65536:
                raise RunError(f"{name}={text!r} is not a port; give a number from 1 to 65535")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", int(text)))
                except OSError as error:
                    raise RunError(
                        f"port {text} is taken ({error.strerror}); choose another with {name}=…"
                    ) from error
            ports.append(int(text))
        if len(set(ports)) < len(ports):
            raise RunError(
                f"ports {ports} must differ; see INFRASIGHT_RUN_PORT and the two …_STATUS_PORT"
            )
        data = Path(os.environ.get("INFRASIGHT_RUN_DATA", "") or ROOT / "data").absolute()
        return cls(port=ports[0], server_status=ports[1], agent_status=ports[2], data=data)


@define
class Part:
    """One process, in a process group of its own, so that Ctrl-C reaches it in our order.

    Attributes:
        name: For people, and of its log file.
        command: What it runs.
        log: Where its output goes; None for ours.
        process: It, once started.
    """

    name: str
    command: list[str | Path]
    log: Path | None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Starts it; it gets SIGTERM should we be killed."""
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

    def fail_if_ended(self) -> None:
        """Raises RunError, with the last lines of its log, when it is gone."""
        if (status := self.process.poll()) is None:
            return
        told = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        if self.log is None:
            raise RunError(f"{self.name} ended {told}")
        lines = self.log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()[
            -LOG_LINES:
        ]
        raise RunError(
            "\n".join(
                [
                    f"the {self.name} ended {told}; the last lines of {self.log}:",
                    *(f"  {x}" for x in lines),
                ]
            )
        )

    def stop(self) -> None:
        """Asks it to end; kills what is left of its group after a while."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"the {self.name} does not stop; killing it")
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe without a reader, or a terminal that is gone."""
    output = select.poll()
    output.register(1, 0)  # an error or hang-up is told without being asked for
    return bool(output.poll(0))


def say(text: str) -> None:
    """Tells the person at the terminal."""
    with contextlib.suppress(
        OSError
    ):  # the terminal may be gone; the parts must be stopped all the same
        print(text, file=sys.stderr, flush=True)


def wait_ready(part: Part, port: int, stopping: threading.Event) -> None:
    """Returns when the part's /readyz says so, or on a wish to stop.

    Raises:
        RunError: It ended, or is not ready in time; with its own reason.
    """
    started = time.monotonic()
    reason = "it does not answer"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not stopping.wait(0.1):
        part.fail_if_ended()
        try:
            with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=5):
                say(f"{part.name} ready after {time.monotonic() - started:.1f} s")
                return
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "backslashreplace").strip()
        except OSError:
            reason = "it does not answer"
        if time.monotonic() - started > READY_SECONDS:
            raise RunError(
                f"the {part.name} is not ready after {READY_SECONDS:.0f} s: {reason}; see {part.log}"
            )


def run(settings: Settings, stopping: threading.Event) -> None:
    """Starts the parts one after the other and stays until `stopping`; stops them whatever happens.

    Raises:
        RunError: A part ended, or did not become ready.
    """
    logs = settings.data / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write to {settings.data} ({error.strerror}); choose another folder with INFRASIGHT_RUN_DATA=…"
        ) from error
    server = f"127.0.0.1:{settings.port}"
    say(f"server on {server}, data and logs in {settings.data}")
    listen = [
        f"--listen={server}",
        f"--status-listen=127.0.0.1:{settings.server_status}",
        f"--data={settings.data}",
    ]
    status, config = (
        f"--status-listen=127.0.0.1:{settings.agent_status}",
        settings.data / "agent.toml",
    )
    agent: list[str | Path] = [
        BIN / "infrasight",
        "agent",
        f"--server={server}",
        status,
        f"--config={config}",
    ]
    parts = [
        (
            Part("server", [BIN / "infrasight-server", *listen], logs / "server.log"),
            settings.server_status,
        ),
        (Part("agent", agent, logs / "agent.log"), settings.agent_status),
        (Part("infrasight tail", [BIN / "infrasight", "tail", f"--server={server}"], None), None),
    ]
    started: list[Part] = []
    try:
        for part, port in parts:
            if port is None:
                where = "" if settings.port == 7443 else f" --server {server}"
                say("ask from another terminal; Ctrl-C here stops everything:")
                say(f'  .venv/bin/infrasight query{where} "{QUERY}"')
            part.start()
            started.append(part)
            if (
                part.name == "server"
            ):  # each event that its store writes opens files: without this it would be what is seen
                config.write_text(
                    f"[filters.all]\nexclude_pid = [{part.process.pid}]\n", encoding="utf-8"
                )
            if port is not None:
                wait_ready(part, port, stopping)
            if stopping.is_set():
                return
        while not stopping.wait(0.2) and not _nobody_reads():
            for part in started:
                part.fail_if_ended()
    finally:
        for part in reversed(started):
            part.stop()


def main() -> int:
    """0 after a wish to stop; 1 when a part failed, after saying which and why."""
    if len(sys.argv) > 1:
        say(__doc__ or "")
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        run(Settings.from_environment(), stopping)
    except RunError as error:
        say(f"run: {error}")
        return 1
    say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
