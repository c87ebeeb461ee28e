"""Helpers for container runtimes in tests: short folders, service processes, cgroup removal."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path, since the kernel limits socket paths to 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="is-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Service:
    """A process that listens on a Unix socket and ends with the tests.

    Args:
        command: The command to run.
        socket: The socket that it listens on.
        log: The file for its output.
        environment: The environment of the process.
    """

    def __init__(
        self, command: list[str], socket: Path, log: Path, environment: dict[str, str]
    ) -> None:
        self._command = ["setpriv", "--pdeathsig", "KILL", *command]
        self._socket = socket
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, is_ready: Callable[[], bool]) -> None:
        """Starts the process and waits until its socket exists and `is_ready` returns true."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment
            )
        deadline = time.monotonic() + 60
        while not (self._socket.exists() and is_ready()):
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < deadline, self._log.read_text(errors="replace")
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; SIGSTOP suspends the process and SIGCONT resumes it."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stops the process, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


def remove_cgroups(name: str) -> None:
    """Removes a cgroup and its children from every hierarchy, once their processes have ended."""
    deadline = time.monotonic() + 60
    hierarchies = [_CGROUPS, *(folder for folder in _CGROUPS.iterdir() if folder.is_dir())]
    for hierarchy in hierarchies:
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            processes = Path(folder) / "cgroup.procs"
            while processes.exists() and processes.read_text().strip():
                assert time.monotonic() < deadline, f"processes remain in {folder}"
                time.sleep(0.02)
            Path(folder).rmdir()
