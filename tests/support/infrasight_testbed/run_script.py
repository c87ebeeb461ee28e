"""`tools/run.py` as a test starts it: on ports and in a folder of its own, in a pipe or on a terminal."""

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[3]
PORTS = (
    "INFRASIGHT_RUN_PORT",
    "INFRASIGHT_RUN_SERVER_STATUS_PORT",
    "INFRASIGHT_RUN_AGENT_STATUS_PORT",
)
SECONDS = 90


class RunScript:
    """The running script, or `make run`.

    Attributes:
        data: The data directory.
        port: The server's.
        process: The process that was started.
        output: Its standard output so far; on a terminal everything that is on it.
    """

    def __init__(self, folder: Path, *command: str, terminal: bool = False) -> None:
        self.mark = uuid.uuid4().hex
        self.data = folder / "data"
        self._errors = folder / "stderr"
        settings = dict(zip(PORTS, map(str, free_ports()), strict=True))
        self.port = int(settings[PORTS[0]])
        env = {
            **os.environ,
            **settings,
            "INFRASIGHT_RUN_DATA": str(self.data),
            "MARK": self.mark,
            "PYTHON": sys.executable,
        }
        self.output = b""
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command or (sys.executable, "tools/run.py"),
                cwd=ROOT,
                env={**env, "COLUMNS": "160", "LINES": "40"},
                stdin=theirs if terminal else subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs if terminal else errors,
                start_new_session=True,
                preexec_fn=_take_terminal if terminal else None,
            )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 65536):
                self.output += piece
        except OSError:  # what a terminal says when all who had it are gone
            return

    def said(self) -> str:
        """What it told people so far."""
        return self._errors.read_text(encoding="utf-8") or self.output.decode("utf-8", "replace")

    def wait_for_event(self, word: str) -> None:
        """Runs `true WORD` again and again until the output holds it."""
        for _ in range(SECONDS):
            assert self.process.poll() is None, self.said()
            if "Ctrl-C" in self.said():
                subprocess.run(["/bin/true", word], check=True)
            time.sleep(1)
            if f'"{word}"'.encode() in self.output or f"true {word}".encode() in self.output:
                return
        raise AssertionError(f"no event of {word}: {self.said()}")

    def type(self, text: str) -> None:
        """Types on its terminal."""
        os.write(self._ours, text.encode())

    def part(self, name: str) -> int:
        """The process that has this word on its command line."""
        return next(
            pid
            for pid in self.left_over()
            if f"\0{name}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def left_over(self, seconds: float = 0) -> list[int]:
        """Its processes that still run, after waiting for them to end for at most so long."""
        deadline = time.monotonic() + seconds
        while True:
            found = [
                int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_ours(folder)
            ]
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(0.1)

    def _is_ours(self, folder: Path) -> bool:
        try:
            return f"MARK={self.mark}".encode() in (folder / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours to read
            return False

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(SECONDS)

    def hang_up(self) -> None:
        """The terminal goes away."""
        if self._ours >= 0:
            ours = self._ours
            self._ours = -1
            os.close(ours)

    def close(self) -> None:
        """Leaves nothing of it, whatever the test saw."""
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.hang_up()


def free_ports() -> list[int]:
    """Three ports that nobody has at the moment."""
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for s in (a, b, c):
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in (a, b, c)]


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
