"""Looks up container metadata in the runtimes without holding up the events.

A batch waits for new containers for a moment at most. What arrives later is published to the store,
where it completes the rows.
"""

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog
from infrasight.v1.stream_pb2 import Container
from prometheus_client import Counter

from infrasight_core.containers.cgroup_index import Claim
from infrasight_core.containers.cgroup_walk import ROOT_USER
from infrasight_core.containers.metadata_cache import CacheEntry, MetadataCache
from infrasight_core.containers.options import ContainerOptions
from infrasight_core.containers.runtime import TIMEOUT
from infrasight_core.containers.runtime_link import RuntimeLink
from infrasight_core.containers.runtimes import socket_exists

log = structlog.get_logger(__name__)
REQUESTS = Counter(
    "infrasight_container_cache_requests",
    "Containers that batches needed, by whether their metadata was cached: `hit` or `miss`.",
    ["outcome"],
)
WAITED = Counter(
    "infrasight_container_wait_seconds",
    "Time that batches waited for container metadata, in seconds.",
)
PUBLISHED = Counter(
    "infrasight_container_updates_published",
    "Updates of container metadata that were put into the agent's outbox for the store.",
)
UNPUBLISHED = Counter(
    "infrasight_container_lookup_updates_dropped",
    "Updates of container metadata that were dropped because publishing them failed.",
)
_HIT = REQUESTS.labels("hit")
_MISS = REQUESTS.labels("miss")

UNKNOWN_OWNER = -2  # of a socket; no cgroup has this maker
MAX_CONTAINERS = 10_000
MAX_BYTES = 16 << 20
_SCAN_INTERVAL = 2.0  # seconds between two scans for new sockets
# A runtime may learn of a container only a moment after its first process has started. These are
# the seconds until each further lookup. After the last one the container is left alone for a
# while, so that a container of no known runtime is not looked up for every event.
_RETRY_PAUSES = (0.2, 1.0, 5.0, 30.0)
_RETRY_INTERVAL = 600.0
_RECONNECT_PAUSE = 5.0  # seconds until a lookup that no link took is tried again


class MetadataLookup:
    """The metadata of this host's containers.

    Args:
        options: The sockets of the runtimes, and the time to wait for them.
        publish: Receives the metadata of containers that have events. A thread of this object
            calls it.
    """

    def __init__(
        self, options: ContainerOptions, publish: Callable[[Sequence[Container]], None]
    ) -> None:
        self._options = options
        self._publish = publish
        self._changed = threading.Condition()
        self._cache = MetadataCache(MAX_CONTAINERS, MAX_BYTES)
        self._unpublished: dict[str, Container] = {}  # by container id
        self._links: dict[Path, RuntimeLink] = {}
        self._socket_owners: dict[Path, int] = {}  # the users who own the linked sockets
        self._linked_sockets: dict[Path, Path] = {}  # paths by target: several may name one socket
        self._awaited: dict[str, set[Path]] = {}  # the links that have not answered, by container
        self._retries: list[tuple[float, str]] = []  # a heap of times and container ids
        self._closing = False  # no new links and no waiting
        self._links_closed = False  # no more metadata will come
        self._scan_sockets()
        self._thread = threading.Thread(target=self._run, name="containers", daemon=True)
        self._thread.start()

    def cached(self) -> int:
        """Returns the number of containers in the cache, with or without metadata."""
        with self._changed:
            return len(self._cache)

    def look_up(
        self, container_ids: Sequence[str], wait: float | None = None
    ) -> list[Container | None]:
        """Returns the metadata of each container, without labels; None if it is not known yet.

        It waits only for containers that are looked up for the first time, for all of them
        together at most `wait` seconds, and only for runtimes that are not slow. Metadata that
        arrives later is published.

        Args:
            container_ids: Distinct ids; from now on these containers count as having events.
            wait: The longest wait in seconds; None uses the options.
        """
        deadline = time.monotonic() + (self._options.wait if wait is None else wait)
        with self._changed:
            entries = [self._use(container_id) for container_id in container_ids]
            cached = sum(entry.container is not None for entry in entries)
            _HIT.inc(cached)
            _MISS.inc(len(entries) - cached)
            if self._worth_waiting(container_ids):
                self._wait(container_ids, deadline)
            return [entry.container for entry in entries]

    def confirm(self, claims: Sequence[Claim]) -> frozenset[Claim]:
        """Returns the claims whose container a runtime of the claim's maker reports.

        A runtime is its maker's if he owns its socket. Only sockets that the options name can be a
        user's own; without one, no claim is confirmed and nothing is asked. It waits as `look_up`
        does.
        """
        deadline = time.monotonic() + self._options.wait
        with self._changed:
            makers = set(self._socket_owners.values())
            asked = [
                claim for claim in claims if claim.maker != ROOT_USER and claim.maker in makers
            ]
            container_ids = [claim.container_id for claim in asked]
            for container_id in container_ids:
                self._request_if_due(container_id)
            if self._worth_waiting(container_ids):
                self._wait(container_ids, deadline)
            return frozenset(claim for claim in asked if self._is_confirmed(claim))

    def prefetch(self, container_ids: Iterable[str]) -> None:
        """Starts the lookup of new containers, before their first event; never waits."""
        with self._changed:
            for container_id in container_ids:
                if self._cache.get(container_id) is None:
                    self._cache.add(container_id)
                    self._request(container_id)

    def close(self) -> None:
        """Publishes the remaining updates and ends all threads."""
        with self._changed:
            self._closing = True
            links = list(self._links.values())
            self._changed.notify_all()
        for link in links:
            link.close()
        for link in links:
            link.join(TIMEOUT + 1)
        with self._changed:
            self._links_closed = True
            self._changed.notify_all()
        self._thread.join(TIMEOUT)

    def on_container(self, path: Path, container: Container) -> None:
        """Stores metadata that a link received; see `RuntimeListener`."""
        with self._changed:
            has_changed = self._cache.update(container.container_id, container)
            entry = self._cache.get(container.container_id)
            if entry is not None and path in self._socket_owners:
                entry.reported_by.add(self._socket_owners[path])
            if has_changed:
                if entry is not None:
                    self._queue_update(entry)
                self._changed.notify_all()

    def on_change(self, path: Path, container_id: str) -> None:
        """Requests a lookup from the link that reported a change; see `RuntimeListener`."""
        with self._changed:
            if container_id and self._links[path].request(container_id):
                self._awaited.setdefault(container_id, set()).add(path)

    def on_answer(self, path: Path, container_id: str) -> None:
        """Ends the wait for a link; see `RuntimeListener`."""
        with self._changed:
            self._settle(path, container_id)

    def on_disconnect(self, path: Path) -> None:
        """Ends all waits for a link; see `RuntimeListener`."""
        with self._changed:
            for container_id in [i for i, paths in self._awaited.items() if path in paths]:
                self._settle(path, container_id)

    def _use(self, container_id: str) -> CacheEntry:
        """Returns the entry of a container that has events; requests a lookup if one is due."""
        entry = self._request_if_due(container_id)
        entry.has_events = True
        self._queue_update(entry)
        return entry

    def _request_if_due(self, container_id: str) -> CacheEntry:
        """Returns the entry of a container; requests a lookup if it is new or was not found."""
        entry = self._cache.get(container_id)
        if entry is None:
            entry = self._cache.add(container_id)
            self._request(container_id)
        elif entry.container is None and time.monotonic() >= entry.retry_at:
            self._request(container_id)
        return entry

    def _is_confirmed(self, claim: Claim) -> bool:
        entry = self._cache.get(claim.container_id)
        return entry is not None and claim.maker in entry.reported_by

    def _request(self, container_id: str) -> None:
        """Requests a lookup from every open link, unless one is pending."""
        entry = self._cache.get(container_id)
        if entry is None:  # it was evicted
            return
        entry.retry_at = time.monotonic() + _RETRY_INTERVAL
        if container_id not in self._awaited:
            requested = {path for path, link in self._links.items() if link.request(container_id)}
            if requested:
                self._awaited[container_id] = requested

    def _retry(self, container_id: str) -> None:
        """Requests another lookup, or plans it again if no link takes it now."""
        self._request(container_id)
        entry = self._cache.get(container_id)
        if container_id not in self._awaited and entry is not None and entry.container is None:
            self._plan_retry(container_id, _RECONNECT_PAUSE)

    def _plan_retry(self, container_id: str, pause: float) -> None:
        heapq.heappush(self._retries, (time.monotonic() + pause, container_id))

    def _worth_waiting(self, container_ids: Sequence[str]) -> list[str]:
        """Returns the containers whose first lookup some link may soon answer."""
        if not self._awaited:
            return []
        return [container_id for container_id in container_ids if self._may_arrive(container_id)]

    def _may_arrive(self, container_id: str) -> bool:
        entry = self._cache.get(container_id)
        if entry is None or entry.container is not None or entry.failed_lookups > 0:
            return False
        paths = self._awaited.get(container_id, ())
        return any(not self._links[path].is_slow for path in paths)

    def _wait(self, container_ids: Sequence[str], deadline: float) -> None:
        started = time.monotonic()
        arrived = self._changed.wait_for(
            lambda: self._closing or not self._worth_waiting(container_ids), deadline - started
        )
        if not arrived:
            for container_id in self._worth_waiting(container_ids):
                for path in self._awaited[container_id]:
                    self._links[path].is_slow = True
        WAITED.inc(time.monotonic() - started)

    def _settle(self, path: Path, container_id: str) -> None:
        """Removes a link from those that are awaited; after the last one it plans a retry."""
        awaited = self._awaited.get(container_id, set())
        awaited.discard(path)
        if awaited:
            return
        self._awaited.pop(container_id, None)
        entry = self._cache.get(container_id)
        if entry is not None and entry.container is None:
            if entry.failed_lookups < len(_RETRY_PAUSES):
                self._plan_retry(container_id, _RETRY_PAUSES[entry.failed_lookups])
            entry.failed_lookups += 1
        self._changed.notify_all()

    def _queue_update(self, entry: CacheEntry) -> None:
        container = self._cache.pop_unpublished(entry)
        if container is not None:
            self._unpublished[container.container_id] = container
            self._changed.notify_all()

    def _run(self) -> None:
        """Publishes updates, retries lookups and scans for sockets until it is closed."""
        next_scan = time.monotonic() + _SCAN_INTERVAL
        while True:
            with self._changed:
                next_retry = self._retries[0][0] if self._retries else next_scan
                pause = max(0.0, min(next_scan, next_retry) - time.monotonic())
                self._changed.wait_for(lambda: self._links_closed or self._unpublished, pause)
                updates = list(self._unpublished.values())
                self._unpublished.clear()
                if self._links_closed and not updates:
                    return
                while self._retries and self._retries[0][0] <= time.monotonic():
                    _, container_id = heapq.heappop(self._retries)
                    self._retry(container_id)
            if updates:
                self._publish_updates(updates)
            if time.monotonic() >= next_scan:
                self._scan_sockets()
                next_scan = time.monotonic() + _SCAN_INTERVAL

    def _publish_updates(self, updates: list[Container]) -> None:
        """Publishes outside of the lock; a failure does not end the thread."""
        try:
            self._publish(updates)
        except Exception:
            UNPUBLISHED.inc(len(updates))
            log.exception("cannot publish container updates", containers=len(updates))
        else:
            PUBLISHED.inc(len(updates))

    def _scan_sockets(self) -> None:
        """Creates a link for every socket that exists and has none."""
        for path in self._options.socket_paths():
            if path in self._links or not socket_exists(path):
                continue
            if self._linked_sockets.setdefault(path.resolve(), path) != path:
                continue
            try:
                owner = path.stat().st_uid
            except OSError:  # it may not be seen, or it is gone again
                owner = UNKNOWN_OWNER
            link = RuntimeLink(path, self)
            with self._changed:
                if self._closing:
                    return
                self._links[path] = link
                self._socket_owners[path] = owner
                link.start()
