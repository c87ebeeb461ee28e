"""What the testbeds of container runtimes share: a short folder, a service in it, and control groups that go with it."""

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
    """A folder whose sockets have names short enough for the kernel: 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="is-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Service:
    """A process that listens on a Unix socket and does not outlive the tests.

    Args:
        command: What to run.
        socket: Where it listens.
        log: Where its output goes.
        environment: Of the process.
    """

    def __init__(
        self, command: list[str], socket: Path, log: Path, environment: dict[str, str]
    ) -> None:
        self._command = ["setpriv", "--pdeathsig", "KILL", *command]
        self._socket = socket
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, answers: Callable[[], bool]) -> None:
        """Starts it and waits until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment
            )
        deadline = time.monotonic() + 60
        while not (self._socket.exists() and answers()):
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < deadline, self._log.read_text(errors="replace")
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal: SIGSTOP makes it silent, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it; does nothing where it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


def remove_cgroups(name: str) -> None:
    """Removes control groups of that name and what is in them, from every hierarchy, once the last process has left them."""
    deadline = time.monotonic() + 60
    for root in [_CGROUPS, *(folder for folder in _CGROUPS.iterdir() if folder.is_dir())]:
        for folder, _, _ in os.walk(root / name, topdown=False):
            while [
                line
                for file in Path(folder).glob("cgroup.procs")
                for line in file.read_text().split()
            ]:
                assert time.monotonic() < deadline, f"processes remain in {folder}"
                time.sleep(0.02)
            Path(folder).rmdir()
