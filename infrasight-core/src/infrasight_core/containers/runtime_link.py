"""A link to the runtime behind one socket: its thread connects, queries, follows and reconnects."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog
from infrasight.v1.stream_pb2 import Container
from prometheus_client import Counter, Gauge

from infrasight_core.containers.runtime import Runtime
from infrasight_core.containers.runtimes import connect
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError
from infrasight_core.net.backoff import Backoff

log = structlog.get_logger(__name__)
CONNECTED = Gauge(
    "infrasight_container_runtime_connected",
    "Whether the container runtime behind a socket answers: 1 if it does, 0 if not.",
    ["socket"],
)
LOOKUPS = Counter(
    "infrasight_container_lookups",
    "Lookups of single containers by runtime and outcome: `found`, `unknown` (the runtime has no "
    "such container), `failed`, or `overflow` (too many lookups were waiting).",
    ["socket", "outcome"],
)

_PING_INTERVAL = 5.0  # seconds without a lookup after which the link pings the runtime
_FIRST_PAUSE = 0.5  # seconds before it reconnects
_LONGEST_PAUSE = 15.0
# After it was disconnected, a link follows events from that moment on, at most so many seconds.
_LONGEST_GAP = 600.0
_MAX_QUEUED_LOOKUPS = 4096


class RuntimeListener(Protocol):
    """Receives what links learn; the threads of the links call it."""

    def on_container(self, path: Path, container: Container) -> None:
        """Receives the metadata of a container."""

    def on_change(self, path: Path, container_id: str) -> None:
        """Learns that the metadata of a container changed and needs a lookup."""

    def on_answer(self, path: Path, container_id: str) -> None:
        """Learns that a lookup ended, with or without metadata."""

    def on_disconnect(self, path: Path) -> None:
        """Learns that no pending lookup will be answered."""


class RuntimeLink:
    """Connects to one socket, again and again, for as long as it is not closed.

    Args:
        path: The path of the socket.
        listener: Receives the results.

    Attributes:
        is_open: Whether it accepts lookups: it is connected, or still tries for the first time.
        is_slow: Whether a batch waited for it in vain. No other batch waits for a slow link until
            its runtime has answered something.
    """

    def __init__(self, path: Path, listener: RuntimeListener) -> None:
        self._path = path
        self._listener = listener
        # None wakes the thread without a lookup.
        self._lookups: queue.Queue[str | None] = queue.Queue(_MAX_QUEUED_LOOKUPS)
        self._closed = threading.Event()
        self._runtime: Runtime | None = None
        self._connected_until = time.time() - 1
        self.is_open = True
        self.is_slow = False
        self._thread = threading.Thread(target=self._run, name=f"containers {path}", daemon=True)
        CONNECTED.labels(str(path)).set(0)

    def start(self) -> None:
        """Starts the thread that connects."""
        self._thread.start()

    def request(self, container_id: str) -> bool:
        """Queues the lookup of a container; never blocks.

        Returns:
            Whether the lookup was queued.
        """
        if not self.is_open:
            return False
        try:
            self._lookups.put_nowait(container_id)
        except queue.Full:
            self._count_lookup("overflow")
            return False
        return True

    def close(self) -> None:
        """Disconnects. The thread ends at once, or when the query that it waits for times out."""
        self._closed.set()
        runtime = self._runtime
        if runtime is not None:
            runtime.close()
        self._wake()

    def join(self, seconds: float) -> None:
        """Waits for the end of the thread."""
        self._thread.join(seconds)

    def _run(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        logged_reason = ""
        while not self._closed.is_set():
            started = time.monotonic()
            reason = self._connect_and_serve()
            self.is_open = False
            CONNECTED.labels(str(self._path)).set(0)
            while not self._lookups.empty():
                self._lookups.get_nowait()
            self._listener.on_disconnect(self._path)
            if reason != logged_reason and not self._closed.is_set():
                log.warning("container runtime unavailable", reason=reason)
            logged_reason = reason
            if time.monotonic() - started > _LONGEST_PAUSE:
                backoff.reset()
            self._closed.wait(backoff.next_pause())

    def _connect_and_serve(self) -> str:
        """Serves until the connection fails or the link is closed; returns why it failed."""
        try:
            self._serve_connection()
        except RuntimeUnavailableError as error:
            return str(error)
        except Exception as error:
            log.exception("container runtime failed", socket=str(self._path))
            return f"{self._path}: unexpected answer: {error!r}"
        return ""

    def _serve_connection(self) -> None:
        runtime = self._runtime = connect(self._path)
        since = max(self._connected_until, time.time() - _LONGEST_GAP)
        failures: list[str] = []
        follower = threading.Thread(
            target=self._follow, args=(runtime, since, failures), name="follow", daemon=True
        )
        try:
            log.info("container runtime connected", socket=str(self._path), version=runtime.version)
            self.is_open = True
            CONNECTED.labels(str(self._path)).set(1)
            follower.start()
            self._serve_lookups(runtime, failures)
        finally:
            self._runtime = None
            self._connected_until = time.time() - 1
            runtime.close()
            follower.join()

    def _serve_lookups(self, runtime: Runtime, failures: list[str]) -> None:
        """Serves lookups, and reads the list of all containers while no lookup waits."""
        listing: Iterator[Container] | None = runtime.list_containers()
        while not self._closed.is_set():
            if failures:
                raise RuntimeUnavailableError(failures[0])
            try:
                if listing is None:
                    container_id = self._lookups.get(timeout=_PING_INTERVAL)
                else:
                    container_id = self._lookups.get_nowait()
            except queue.Empty:
                if listing is not None:
                    listing = self._read_next(listing)
                else:
                    runtime.ping()
                    self.is_slow = False
                continue
            if container_id is not None:
                self._look_up(runtime, container_id)

    def _read_next(self, listing: Iterator[Container]) -> Iterator[Container] | None:
        """Reads the next container of the list; returns None at its end."""
        try:
            container = next(listing, None)
        except RuntimeAnswerError as error:
            log.warning("cannot list containers", reason=str(error))
            return None
        self.is_slow = False
        if container is None:
            return None
        self._listener.on_container(self._path, container)
        return listing

    def _look_up(self, runtime: Runtime, container_id: str) -> None:
        outcome = "failed"
        try:
            container = runtime.find_container(container_id)
            outcome = "unknown" if container is None else "found"
            self.is_slow = False
            if container is not None:
                self._listener.on_container(self._path, container)
        except RuntimeAnswerError as error:
            log.warning("cannot look up container", reason=str(error))
        finally:
            self._count_lookup(outcome)
            self._listener.on_answer(self._path, container_id)

    def _follow(self, runtime: Runtime, since: float, failures: list[str]) -> None:
        try:
            for event in runtime.follow_events(since):
                if isinstance(event, str):
                    self._listener.on_change(self._path, event)
                else:
                    self._listener.on_container(self._path, event)
        except RuntimeAnswerError as error:
            log.warning("container runtime has no events", reason=str(error))
        except RuntimeUnavailableError as error:
            failures.append(str(error))
            self._wake()
        except Exception as error:
            log.exception("events of container runtime failed", socket=str(self._path))
            failures.append(f"{self._path}: unexpected event: {error!r}")
            self._wake()

    def _wake(self) -> None:
        """Wakes the thread if it waits for lookups; with a full queue it does not wait."""
        with suppress(queue.Full):
            self._lookups.put_nowait(None)

    def _count_lookup(self, outcome: str) -> None:
        LOOKUPS.labels(str(self._path), outcome).inc()
