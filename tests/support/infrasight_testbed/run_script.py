"""`tools/run.py` as a test starts it: on free ports, in a pipe or on a terminal."""

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid
from pathlib import Path

from infrasight_testbed.command import restore_interrupt
from infrasight_testbed.ports import free_port

ROOT = Path(__file__).parents[3]
PORTS = (
    "INFRASIGHT_RUN_SERVER_STATUS_PORT",
    "INFRASIGHT_RUN_AGENT_STATUS_PORT",
)
SECONDS = 200  # a busy machine loads every probe in a minute


class RunScript:
    """The running script, or `make run`.

    Attributes:
        data: The data directory.
        server: The server's address.
        process: The process that was started.
        output: Its standard output so far; on a terminal everything that is shown there.
    """

    def __init__(self, folder: Path, *command: str, terminal: bool = False) -> None:
        self._mark = uuid.uuid4().hex
        self._errors = folder / "stderr"
        # Unlike the folder of pytest, other users can reach it.
        self._folder = Path(tempfile.mkdtemp(prefix="infrasight-run-"))
        self._folder.chmod(0o755)
        self.data = self._folder / "data"
        self._socket = self._folder / "run/server.sock"
        self.server = f"unix:{self._socket}"
        ports = dict(zip(PORTS, map(str, free_ports()), strict=True))
        env = {
            **os.environ,
            **ports,
            "INFRASIGHT_RUN_DATA": str(self.data),
            "INFRASIGHT_RUN_SOCKET": str(self._socket),
            "MARK": self._mark,
            "PYTHON": sys.executable,
            "COLUMNS": "160",
            "LINES": "40",
        }
        self.output = b""
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command or (sys.executable, "tools/run.py"),
                cwd=ROOT,
                env=env,
                stdin=theirs if terminal else subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs if terminal else errors,
                start_new_session=True,
                preexec_fn=_take_terminal if terminal else restore_interrupt,
            )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 65536):
                self.output += piece
        except OSError:  # EIO: every process that had the terminal has ended
            return

    def messages(self) -> str:
        """The messages so far; on a terminal everything that is shown there."""
        return self._errors.read_text(encoding="utf-8") or self.output.decode("utf-8", "replace")

    def wait_for_event(self, word: str) -> None:
        """Runs `true WORD` until the output shows its execution."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.messages()
            if "Ctrl-C" in self.messages():
                subprocess.run(["/bin/true", word], check=True)
            time.sleep(0.5)
            if f'"{word}"'.encode() in self.output or f"true {word}".encode() in self.output:
                return
        raise AssertionError(f"no event of {word}: {self.messages()}")

    def type(self, text: str) -> None:
        """Types on its terminal."""
        os.write(self._ours, text.encode())

    def part(self, name: str) -> int:
        """The id of the process with this word on its command line."""
        return next(
            pid
            for pid in self.left_over()
            if f"\0{name}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def server_processes(self) -> list[int]:
        """The ids of the server's process and of those that it has started: its store."""
        server = next(
            pid
            for pid in self.left_over()
            if b"/infrasight-server\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        children = [path.read_text() for path in Path(f"/proc/{server}/task").glob("*/children")]
        return [server, *map(int, " ".join(children).split())]

    def server_user(self) -> int:
        """The id of the user who runs the server."""
        return self._socket.stat().st_uid

    def left_over(self, seconds: float = 0) -> list[int]:
        """The ids of its processes that still run after at most this time."""
        deadline = time.monotonic() + seconds
        while True:
            pids = [
                int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_ours(folder)
            ]
            if not pids or time.monotonic() >= deadline:
                return pids
            time.sleep(0.1)

    def _is_ours(self, folder: Path) -> bool:
        try:
            return f"MARK={self._mark}".encode() in (folder / "environ").read_bytes()
        except OSError:  # the process has ended, or belongs to somebody else
            return False

    def wait(self) -> int:
        """Waits until the script has ended; returns its exit status."""
        return self.process.wait(SECONDS)

    def hang_up(self) -> None:
        """Closes the terminal."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def close(self) -> None:
        """Kills everything that is left."""
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.hang_up()
        shutil.rmtree(self._folder)


def free_ports() -> list[int]:
    """Two free ports."""
    return [free_port(), free_port()]


def _take_terminal() -> None:
    restore_interrupt()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
