"""Runs all of InfraSight on this machine: a server with its embedded store, an agent, a live view.

`make run` starts it. Events go to standard output (a live table on a terminal, JSON lines in a
pipe), everything else to standard error. Ctrl-C, SIGTERM, SIGHUP, the end of the pipe, or the end
of any part stops all parts.

Only the agent needs root. As root, the script runs the server as an ordinary user: the
one who called sudo, else a user id without a name. Environment:

    INFRASIGHT_RUN_SOCKET                the server's socket   [/run/infrasight/server.sock]
    INFRASIGHT_RUN_USER                  the id of the server's user; 0 for root
    INFRASIGHT_RUN_SERVER_STATUS_PORT    the server's /metrics, /healthz and /readyz  [7444]
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
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from attrs import define, evolve, field, frozen

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
DEFAULT_SOCKET = Path("/run/infrasight/server.sock")
SERVER_USER = 64_443  # without sudo: an id that distributions assign to no user
PORTS = {
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
        socket: The server's socket.
        user: The id of the server's user; None for the own one.
        server_status: The port of the server's /readyz.
        agent_status: The port of the agent's /readyz.
        data: The folder of the store; its folder `logs` has one file for each part.
    """

    socket: Path
    user: int | None
    server_status: int
    agent_status: int
    data: Path

    @classmethod
    def from_environment(cls) -> "Settings":
        """Reads the variables. Raises RunError for an invalid value, or a port that is in use."""
        server_status, agent_status = (_free_port(name, default) for name, default in PORTS.items())
        if server_status == agent_status:
            raise RunError(f"the two ports must differ; see {', '.join(PORTS)}")
        socket_path = Path(os.environ.get("INFRASIGHT_RUN_SOCKET", "") or DEFAULT_SOCKET).absolute()
        data = Path(os.environ.get("INFRASIGHT_RUN_DATA", "") or ROOT / "data").absolute()
        return cls(socket_path, _server_user(), server_status, agent_status, data)

    @property
    def server(self) -> str:
        """The server's address."""
        return f"unix:{self.socket}"


def _server_user() -> int | None:
    """Returns the id of the ordinary user who runs the server; None to run it as this user."""
    text = os.environ.get("INFRASIGHT_RUN_USER", "")
    if text and not text.isdecimal():
        raise RunError(f"INFRASIGHT_RUN_USER={text!r} is not a user id; give a number")
    if os.geteuid() != 0:
        return None
    return int(text or os.environ.get("SUDO_UID", "") or SERVER_USER) or None


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
        user: The id of the user who runs it; None for this script's user.
        process: The process, once started.
    """

    name: str
    command: list[str | Path]
    log: Path | None
    user: int | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Starts the process, which gets SIGTERM if this script is killed."""
        output = None if self.log is None else _open_log(self.log)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
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


def _open_log(path: Path) -> BinaryIO:
    """Opens a new log that only this user may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "wb")


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
        settings = _prepare_folders(settings, logs)
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
        wait_until_ready(server, settings.server_status, stopping)
        if stopping.is_set():
            return
        # Each event that the store writes opens files: the server's own events would fill the view.
        own = [server.process.pid, *_children(server.process.pid)]
        agent_settings.write_text(f"[filters.all]\nexclude_pid = {own}\n", encoding="utf-8")
        agent = start(_agent(settings, agent_settings, logs))
        wait_until_ready(agent, settings.agent_status, stopping)
        if stopping.is_set():
            return
        option = "" if settings.socket == DEFAULT_SOCKET else f" --server {settings.server}"
        option += f" --server-user {settings.user}" if option and settings.user else ""
        report("query from another terminal; Ctrl-C here stops everything:")
        report(f'  .venv/bin/infrasight query{option} "{QUERY}"')
        start(_view(settings))
        while not stopping.wait(0.2) and not output_is_closed():
            for part in started:
                part.check_running()
    finally:
        for part in reversed(started):
            part.stop()


def _prepare_folders(settings: Settings, logs: Path) -> Settings:
    """Creates the folders of data, logs and socket, each for its user.

    Returns:
        The settings; without the server's user if that user cannot reach what the server needs.
    """
    settings.data.mkdir(mode=0o711, parents=True, exist_ok=True)
    logs.mkdir(mode=0o700, exist_ok=True)
    logs.chmod(0o700)
    store = settings.data / "store"
    store.mkdir(mode=0o700, exist_ok=True)
    settings.socket.parent.parent.mkdir(parents=True, exist_ok=True)
    settings.socket.parent.mkdir(mode=0o755, exist_ok=True)
    if settings.user is not None:
        obstacle = _obstacle(settings.user, store)
        if obstacle:
            report(f"warning: the server runs as root: {obstacle}")
            settings = evolve(settings, user=None)
    if os.geteuid() == 0:
        owner = settings.user or 0
        _give_to(owner, store)
        os.chown(settings.socket.parent, owner, owner)
        private = settings.socket.with_name(f".{settings.socket.name}")
        if private.exists():
            _give_to(owner, private)
    return settings


def _obstacle(user: int, store: Path) -> str:
    """Returns why an ordinary user cannot run the server, and the remedy; empty if it can."""
    try:
        trial = subprocess.run(
            [BIN / "python", "-c", "import infrasight_server"],
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
        is_usable = trial.returncode == 0
    except PermissionError:
        is_usable = False
    if not is_usable:
        return (
            f"user {user} cannot use {BIN.parent} or its Python; let other users read it, or clone "
            "into a folder that they can reach"
        )
    for folder in store.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return (
                f"user {user} cannot reach {store} because of {folder}; `chmod o+x {folder}`, or "
                "choose another folder: INFRASIGHT_RUN_DATA=..."
            )
    return ""


def _give_to(owner: int, folder: Path) -> None:
    """Changes the owner of a folder and of everything in it, and follows no links.

    A run as another user has left it; if the owner is right, its content is, too.
    """
    if folder.lstat().st_uid == owner:
        return
    for parent, folders, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, owner, owner, dir_fd=descriptor, follow_symlinks=False)
        os.chown(parent, owner, owner, follow_symlinks=False)


def _children(pid: int) -> list[int]:
    """Returns the processes that a process has started, such as the server's embedded store."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for text in lists for child in text.read_text().split()]


def _server(settings: Settings, logs: Path) -> Part:
    command: list[str | Path] = [
        BIN / "infrasight-server",
        f"--listen={settings.server}",
        f"--status-listen=127.0.0.1:{settings.server_status}",
        f"--data={settings.data}",
    ]
    return Part("server", command, logs / "server.log", settings.user)


def _agent(settings: Settings, agent_settings: Path, logs: Path) -> Part:
    command: list[str | Path] = [
        BIN / "infrasight",
        "agent",
        f"--server={settings.server}",
        f"--status-listen=127.0.0.1:{settings.agent_status}",
        f"--config={agent_settings}",
        f"--spool={settings.data}/spool",
        *_trust(settings),
    ]
    return Part("agent", command, logs / "agent.log")


def _view(settings: Settings) -> Part:
    command: list[str | Path] = [
        BIN / "infrasight",
        "tail",
        f"--server={settings.server}",
        *_trust(settings),
    ]
    return Part("infrasight tail", command, log=None)


def _trust(settings: Settings) -> list[str]:
    return [] if settings.user is None else [f"--server-user={settings.user}"]


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
