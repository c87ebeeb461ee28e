"""What container runtimes say of containers, looked up beside the data: a caller waits a moment at most, then goes on."""

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog
from infrasight.v1.stream_pb2 import Container
from prometheus_client import Counter

from infrasight_core.containers.metadata_cache import Entry, MetadataCache
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.containers.runtime_link import RuntimeLink
from infrasight_core.containers.runtimes import TIMEOUT, is_there
from infrasight_core.containers.update_queue import UpdateQueue

log = structlog.get_logger(__name__)
ASKED = Counter(
    "infrasight_container_cache_requests",
    "Containers of batches, by whether they were known at once.",
    ["outcome"],
)
WAITED = Counter(
    "infrasight_container_wait_seconds", "How long batches waited for what runtimes say."
)
_HIT, _MISS = ASKED.labels("hit"), ASKED.labels("miss")

ENTRIES, BYTES = 10_000, 16 << 20
_SCOUT = 2.0  # seconds between two looks for new sockets
# A runtime may know a container only a moment after its first process ran. Seconds until each further try, and how long it is
# then left alone: a container of no runtime that we know is not asked of for every event.
_AGAIN, _LEFT_ALONE = (0.2, 1.0, 5.0, 30.0), 600.0


class ContainerMetadata:
    """The containers of this host.

    Args:
        options: Where the runtimes are, and how long to wait.
        tell: Gets what was learned of containers that had events; called by a thread of this object.
    """

    def __init__(
        self, options: ContainerOptions, tell: Callable[[Sequence[Container]], None]
    ) -> None:
        self._options, self._news = options, UpdateQueue(tell)
        self._changed = threading.Condition()
        self._memory = MetadataCache(ENTRIES, BYTES)
        self._links: dict[Path, RuntimeLink] = {}
        self._sockets: dict[Path, Path] = {}  # a socket found under two names is one
        self._open: dict[str, set[Path]] = {}  # who has not answered yet
        self._due: list[tuple[float, str]] = []  # when to ask again
        self._closed = self._ended = False  # no new links and no waiting; nothing comes any more
        self._scout()
        self._thread = threading.Thread(target=self._run, name="containers", daemon=True)
        self._thread.start()

    def remembered(self) -> int:
        """How many containers are remembered, also those of which nothing is known."""
        with self._changed:
            return len(self._memory)

    def known(
        self, container_ids: Sequence[str], wait: float | None = None
    ) -> list[Container | None]:
        """What is known of each container, without labels; None where it is nothing, for now.

        It waits only for ids that were never asked before, for all of them together no longer than `wait`, and only while a
        runtime that answers has not answered. What comes later is told.

        Args:
            container_ids: Distinct and not empty; they count as having events from now on.
            wait: Seconds; None for those of the options.
        """
        deadline = time.monotonic() + (self._options.wait if wait is None else wait)
        with self._changed:
            entries = [self._had_events(container_id) for container_id in container_ids]
            if self._pending(container_ids):
                self._wait(container_ids, deadline)
            return [entry.container for entry in entries]

    def expect(self, container_ids: Iterable[str]) -> None:
        """Has containers looked up that are just coming about, before their first event. Never waits."""
        with self._changed:
            for container_id in container_ids:
                if self._memory.get(container_id) is None:
                    self._memory.add(container_id)
                    self._ask(container_id)

    def close(self) -> None:
        """Ends all threads; what was learned and not told is told first."""
        with self._changed:
            self._closed = True
            links = list(self._links.values())
            self._changed.notify_all()
        for link in links:
            link.close()
        for link in links:
            link.join(TIMEOUT + 1)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(TIMEOUT)

    def learn(self, path: Path, container: Container) -> None:
        """A link's word; see `Listener`."""
        with self._changed:
            if self._memory.learn(container.container_id, container):
                entry = self._memory.get(container.container_id)
                if entry is not None:
                    self._tell_later(entry)
                self._changed.notify_all()

    def look_up(self, path: Path, container_id: str) -> None:
        """A link's word; see `Listener`."""
        with self._changed:
            if container_id and self._links[path].ask(container_id):
                self._open.setdefault(container_id, set()).add(path)

    def answered(self, path: Path, container_id: str) -> None:
        """A link's word; see `Listener`."""
        with self._changed:
            self._settle(path, container_id)

    def lost(self, path: Path) -> None:
        """A link's word; see `Listener`."""
        with self._changed:
            for container_id in [i for i, paths in self._open.items() if path in paths]:
                self._settle(path, container_id)

    def _had_events(self, container_id: str) -> Entry:
        entry = self._memory.get(container_id)
        if entry is None:
            entry = self._memory.add(container_id)
            self._ask(container_id)
        elif entry.container is None and time.monotonic() >= entry.again:
            self._ask(container_id)
        (_MISS if entry.container is None else _HIT).inc()
        entry.had_events = True
        self._tell_later(entry)
        return entry

    def _ask(self, container_id: str) -> None:
        """Asks every runtime that takes questions; nobody is asked twice at a time."""
        entry = self._memory.get(container_id)
        if entry is None:  # forgotten in the meantime
            return
        entry.again = time.monotonic() + _LEFT_ALONE
        if container_id not in self._open:
            asked = {path for path, link in self._links.items() if link.ask(container_id)}
            if asked:
                self._open[container_id] = asked

    def _pending(self, container_ids: Sequence[str]) -> list[str]:
        """Those that were asked for the first time, of which somebody may yet tell something soon."""
        return [
            i
            for i in container_ids
            if self._is_new(i) and any(not self._links[p].slow for p in self._open.get(i, ()))
        ]

    def _is_new(self, container_id: str) -> bool:
        entry = self._memory.get(container_id)
        return entry is not None and entry.container is None and entry.rejections == 0

    def _wait(self, container_ids: Sequence[str], deadline: float) -> None:
        began = time.monotonic()
        if not self._changed.wait_for(
            lambda: self._closed or not self._pending(container_ids), deadline - began
        ):
            for container_id in self._pending(container_ids):
                for path in self._open[container_id]:
                    self._links[path].slow = True
        WAITED.inc(time.monotonic() - began)

    def _settle(self, path: Path, container_id: str) -> None:
        waiting = self._open.get(container_id, set())
        waiting.discard(path)
        if waiting:
            return
        self._open.pop(container_id, None)
        entry = self._memory.get(container_id)
        if entry is not None and entry.container is None:
            pause = _AGAIN[entry.rejections] if entry.rejections < len(_AGAIN) else None
            entry.rejections += 1
            if pause is not None:
                heapq.heappush(self._due, (time.monotonic() + pause, container_id))
        self._changed.notify_all()

    def _tell_later(self, entry: Entry) -> None:
        if (whole := self._memory.tell(entry)) is not None:
            self._news.add(whole)
            self._changed.notify_all()

    def _run(self) -> None:
        scouted = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                due = min(scouted + _SCOUT, self._due[0][0] if self._due else now + _SCOUT)
                self._changed.wait_for(lambda: self._ended or bool(self._news), max(0.0, due - now))
                news = self._news.take()
                if self._ended and not news:
                    return
                while self._due and self._due[0][0] <= time.monotonic():
                    self._ask(heapq.heappop(self._due)[1])
            if news:
                self._news.hand_over(news)
            if time.monotonic() >= scouted + _SCOUT:
                self._scout()
                scouted = time.monotonic()

    def _scout(self) -> None:
        """Links every socket that is there and not linked yet."""
        for path in self._options.places():
            if (
                path not in self._links
                and is_there(path)
                and self._sockets.setdefault(path.resolve(), path) == path
            ):
                link = RuntimeLink(path, self)
                with self._changed:
                    if self._closed:
                        return
                    self._links[path] = link
                    link.start()
