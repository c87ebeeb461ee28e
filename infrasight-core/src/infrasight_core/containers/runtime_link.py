"""One socket's runtime: connected and connected again for ever, asked and followed, in threads of its own."""

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

from infrasight_core.containers.runtimes import Runtime, connect
from infrasight_core.errors import RuntimeAnswerError, RuntimeUnavailableError

log = structlog.get_logger(__name__)
CONNECTED = Gauge(
    "infrasight_container_runtime_connected", "Whether a container runtime answers.", ["socket"]
)
LOOKUPS = Counter(
    "infrasight_container_lookups", "Containers that a runtime was asked of.", ["socket", "outcome"]
)

_PING = 5.0  # seconds of silence after which a runtime is asked whether it lives
_SOONEST, _LATEST = 0.5, 15.0  # seconds before it is connected again
_BACK = 600.0  # seconds of an absence of which it is asked what it did in the meantime
_QUESTIONS = 4096


class Listener(Protocol):
    """Who wants to know; called by a link's threads."""

    def learn(self, path: Path, container: Container) -> None:
        """The runtime told of a container."""

    def look_up(self, path: Path, container_id: str) -> None:
        """Something is new of a container; the runtime wants to be asked."""

    def answered(self, path: Path, container_id: str) -> None:
        """The runtime has told what it knows of a container, which may be nothing."""

    def lost(self, path: Path) -> None:
        """No question that is open will be answered."""


class RuntimeLink:
    """A socket and whoever stands behind it.

    Args:
        path: Of the socket.
        listener: Gets what is learned.

    Attributes:
        open: Whether questions are taken: it is connected, or the first try to connect it has not failed yet.
        slow: A batch waited for it in vain: nobody waits for it again until it has answered something.
    """

    def __init__(self, path: Path, listener: Listener) -> None:
        self._path, self._listener = path, listener
        self._questions: queue.Queue[str | None] = queue.Queue(_QUESTIONS)
        self._closed = threading.Event()
        self._runtime: Runtime | None = None
        self._lived = time.time() - 1
        self.open, self.slow = True, False
        self._thread = threading.Thread(target=self._run, name=f"containers {path}", daemon=True)
        CONNECTED.labels(str(path)).set(0)

    def start(self) -> None:
        """Begins to connect."""
        self._thread.start()

    def ask(self, container_id: str) -> bool:
        """Wants to know of a container; False, and counted, where the question is not taken. Never blocks."""
        if not self.open:
            return False
        try:
            self._questions.put_nowait(container_id)
        except queue.Full:
            self._count("overflow")
            return False
        return True

    def close(self) -> None:
        """Hangs up; the thread ends at once, or when the answer that it waits for is late."""
        self._closed.set()
        runtime = self._runtime
        if runtime is not None:
            runtime.close()
        self._nudge()

    def join(self, seconds: float) -> None:
        """Waits for the thread's end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        pause, said = _SOONEST, ""
        while not self._closed.is_set():
            began, reason = time.monotonic(), ""
            try:
                self._connected()
            except RuntimeUnavailableError as error:
                reason = str(error)
            except Exception as error:
                reason = f"{self._path}: an answer that is not understood: {error!r}"
                log.exception("container runtime", socket=str(self._path))
            self.open = False
            CONNECTED.labels(str(self._path)).set(0)
            while not self._questions.empty():
                self._questions.get_nowait()
            self._listener.lost(self._path)
            if reason != said and not self._closed.is_set():
                log.warning("container runtime away", reason=reason)
            said = reason
            pause = _SOONEST if time.monotonic() - began > _LATEST else min(pause * 2, _LATEST)
            self._closed.wait(pause)

    def _connected(self) -> None:
        """Connects, and serves until it fails or is closed."""
        runtime = self._runtime = connect(self._path)
        since = max(self._lived, time.time() - _BACK)
        ended: list[str] = []
        following = threading.Thread(
            target=self._follow, args=(runtime, since, ended), name="follow", daemon=True
        )
        try:
            log.info("container runtime connected", socket=str(self._path), version=runtime.version)
            self.open = True
            CONNECTED.labels(str(self._path)).set(1)
            following.start()
            self._serve(runtime, ended)
        finally:
            self._runtime, self._lived = None, time.time() - 1
            runtime.close()
            following.join()

    def _serve(self, runtime: Runtime, ended: list[str]) -> None:
        listing: Iterator[Container] | None = runtime.all()
        while not self._closed.is_set():
            if ended:
                raise RuntimeUnavailableError(ended[0])
            try:
                question = (
                    self._questions.get(timeout=_PING)
                    if listing is None
                    else self._questions.get_nowait()
                )
            except queue.Empty:
                if listing is not None:
                    listing = self._listed(listing)
                else:
                    runtime.ping()
                    self.slow = False
                continue
            if question is not None:
                self._look_up(runtime, question)

    def _listed(self, listing: Iterator[Container]) -> Iterator[Container] | None:
        """Takes the next container of the list; None behind the last."""
        try:
            container = next(listing, None)
        except RuntimeAnswerError as error:
            log.warning("containers not listed", reason=str(error))
            return None
        self.slow = False
        if container is not None:
            self._listener.learn(self._path, container)
        return listing if container is not None else None

    def _look_up(self, runtime: Runtime, container_id: str) -> None:
        outcome = "failed"
        try:
            found = runtime.one(container_id)
            outcome = "unknown" if found is None else "found"
            self.slow = False
            if found is not None:
                self._listener.learn(self._path, found)
        except RuntimeAnswerError as error:
            log.warning("container not looked up", reason=str(error))
        finally:
            self._count(outcome)
            self._listener.answered(self._path, container_id)

    def _follow(self, runtime: Runtime, since: float, ended: list[str]) -> None:
        try:
            for news in runtime.follow(since):
                if isinstance(news, str):
                    self._listener.look_up(self._path, news)
                else:
                    self._listener.learn(self._path, news)
        except RuntimeAnswerError as error:
            log.warning("container runtime without events", reason=str(error))
        except RuntimeUnavailableError as error:
            ended.append(str(error))
            self._nudge()
        except Exception as error:
            log.exception("container runtime's events", socket=str(self._path))
            ended.append(f"{self._path}: an event that is not understood: {error!r}")
            self._nudge()

    def _nudge(self) -> None:
        """Wakes the thread that waits for questions; with a full queue it does not wait."""
        with suppress(queue.Full):
            self._questions.put_nowait(None)

    def _count(self, outcome: str) -> None:
        LOOKUPS.labels(str(self._path), outcome).inc()
