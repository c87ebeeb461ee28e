"""Starts the store's process, starts it again when it ends, and opens connections to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from threading import Event, Lock, Thread

import structlog
from attrs import asdict
from infrasight_core.errors import StoreError, StoreUnavailableError
from infrasight_core.net.backoff import Backoff

from infrasight_server import metrics
from infrasight_server.store.embedded.process import MESSAGE_BYTES, STOP_SECONDS, Options

log = structlog.get_logger(__name__)
_START_SECONDS = 120.0
_KILL_SECONDS = STOP_SECONDS + 10.0
"""So long after the server closes it, the process is killed."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_STABLE_SECONDS = 60.0
"""After so long a life, the process is restarted without a long pause."""
_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")
"""The variables that the process gets; others may be secrets of the server."""


class Supervisor:
    """Runs the store's process while it is open.

    Args:
        options: How the process runs.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = Lock()
        self._control: socket.socket | None = None
        self._reason = "it has not started"
        self._missing: tuple[str, ...] = ()
        self._failure: StoreError | None = None
        self._started = Event()
        self._closing = Event()
        # The kernel ends the process with the thread that started it, so the thread is ours.
        self._thread = Thread(target=self._run, name="store", daemon=True)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the kernel does not support of the process's confinement."""
        return self._missing

    def start(self) -> None:
        """Starts the process and waits until it answers.

        Raises:
            StoreError: It cannot start.
        """
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def connect(self) -> socket.socket:
        """Opens a connection.

        Raises:
            StoreUnavailableError: The process has ended and has not started again yet.
        """
        ours, its = socket.socketpair()
        try:
            with self._lock:
                if self._control is None:
                    raise StoreUnavailableError(f"the embedded store is down: {self._reason}")
                socket.send_fds(self._control, [b"c"], [its.fileno()])
        except OSError as error:
            ours.close()
            raise StoreUnavailableError("the embedded store has just ended") from error
        except StoreUnavailableError:
            ours.close()
            raise
        finally:
            its.close()
        return ours

    def close(self) -> None:
        """Closes the store and waits until the process has ended."""
        self._closing.set()
        with self._lock:
            if self._control is not None:
                self._control.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                process, control = self._launch()
            except StoreError as error:
                if not self._started.is_set():
                    self._failure = error
                    self._started.set()
                    return
                self._reason = str(error)
            else:
                self._supervise(process, control)
            if self._closing.is_set():
                return
            if time.monotonic() - began > _STABLE_SECONDS:
                backoff.reset()
            pause = backoff.next_pause()
            metrics.STORE_RESTARTS.inc()
            log.error("the embedded store ended; restarting it", reason=self._reason, pause=pause)
            self._closing.wait(pause)

    def _supervise(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Gives out connections to the process until it ends."""
        with self._lock:
            self._control = control
        self._started.set()
        if self._closing.is_set():  # `close` may have come before there was a socket to close
            control.shutdown(socket.SHUT_RDWR)
        self._reason = _describe(self._wait(process))
        with self._lock:
            self._control = None
        control.close()

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Waits until a process has ended, and kills it when its time to close is over."""
        while not self._closing.is_set():
            with suppress(subprocess.TimeoutExpired):
                return process.wait(1.0)
        try:
            return process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("the embedded store does not end; it is killed")
            process.kill()
            return process.wait()

    def _launch(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Starts a process and waits until it is ready. Raises StoreError."""
        control, its = socket.socketpair()
        command = [sys.executable, "-I", "-m", "infrasight_server.store.embedded.process"]
        process = subprocess.Popen(
            [*command, str(its.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        its.close()
        try:
            assert process.stdin is not None
            with process.stdin as stdin:
                stdin.write(json.dumps(asdict(self._options)).encode())
            control.settimeout(_START_SECONDS)
            message = control.recv(MESSAGE_BYTES)
            control.settimeout(None)
            if not message:
                raise StoreError(f"its process ended at once: {_describe(process.wait())}")
        except (OSError, StoreError) as error:
            process.kill()
            process.wait()
            control.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"its process does not start: {error}") from error
        answer = json.loads(message)
        if "error" in answer:
            process.wait()
            control.close()
            raise StoreError(" ".join(answer["error"].split()))
        self._missing = tuple(answer["missing"])
        return process, control


def _describe(status: int) -> str:
    if status >= 0:
        return f"it exited with status {status}"
    name = signal.Signals(-status).name
    if name == "SIGKILL":
        return "it was killed (SIGKILL), perhaps because memory ran out"
    return f"it was ended by {name}"
