"""A real ClickHouse server for tests, which can be killed and started again with its data."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from infrasight_testbed.clickhouse_install import clickhouse_library
from infrasight_testbed.ports import free_port

_START_SECONDS = 30.0


class ClickHouseServer:
    """A server over HTTP on a loopback port.

    Args:
        folder: Where it keeps its data; the data stay when it is stopped or killed.
        arguments: Further ones of the command line.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `--store` of infrasight-server."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> "ClickHouseServer":
        """Starts it and waits until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        never_written = self._folder / "fifo"
        if not never_written.exists():
            os.mkfifo(never_written)
        # The server lives as long as its query, which waits for a writer that never comes.
        forever = f"SELECT * FROM file('{never_written}', 'LineAsString') FORMAT Null"
        command = [
            sys.executable,
            str(Path(__file__).with_name("clickhouse_process.py")),
            str(clickhouse_library()),
            f"--path={self._folder / 'data'}",
            f"--http_port={self._port}",
            "--listen_host=127.0.0.1",
            f"--query=SYSTEM START LISTEN HTTP; {forever}",
            *self._arguments,
        ]
        log_file = self._folder / "log"
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(
                    f"ClickHouse did not start:\n{log_file.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}ping", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as when the machine loses it; what it had committed stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
