"""Builds the tools of the cluster tests in the background, until a test needs them."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_SCRIPT = Path(__file__).parents[3] / "tools" / "cluster_tools.py"


class ClusterBuild:
    """One run of `tools/cluster_tools.py`.

    Attributes:
        folder: The folder of the tools, after a successful build.
        reason: The reason of the failure, after a failed build.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.reason = ""
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def find(self) -> bool:
        """Sets `folder` if the tools have been built already; returns whether they have."""
        located = subprocess.run(
            [sys.executable, _SCRIPT, "--where"], capture_output=True, text=True, check=True
        )
        folder = Path(located.stdout.strip())
        if folder.exists():
            self.folder = folder
        return self.folder is not None

    def start(self) -> bool:
        """Starts the build at low priority unless the tools exist; returns whether it did."""
        if self.find():
            return False
        command = ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "19"]
        command += [sys.executable, str(_SCRIPT)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, process_group=0
        )
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name="cluster-build"
        )
        self._reader.start()
        return True

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def wait(self, report: Callable[[str], object]) -> None:
        """Waits for the end of the build, and starts it if necessary.

        Args:
            report: Called with each line of the build's progress.
        """
        if self.folder is not None or self.reason:
            return
        if self._process is None and not self.start():
            return
        last = ""
        while (line := self._lines.get()) is not None:
            report(line)
            last = line
        status, output = self._end()
        if status == 0:
            self.folder = Path(output.strip())
        else:
            self.reason = last or f"{_SCRIPT.name} ended with status {status}"

    def stop(self) -> None:
        """Kills the build and its compiler, if they are still running."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._end()

    def _end(self) -> tuple[int, str]:
        assert self._process is not None
        self._reader.join()
        with self._process as process:
            output = process.stdout.read() if process.stdout is not None else ""
        return process.returncode, output
