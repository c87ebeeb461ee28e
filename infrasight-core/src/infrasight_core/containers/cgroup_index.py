"""The cgroups that are known: which container each belongs to, also after it has gone; bounded."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Counter, Gauge

from infrasight_core.containers.cgroup_paths import container_of
from infrasight_core.kernel.cgroups import ROOT

LIMIT = 65536
AGAIN = 30.0  # seconds after which an unknown cgroup is worth another walk

EVICTED = Counter(
    "infrasight_cgroups_evicted",
    "Cgroups whose container is no longer known, to make room.",
    ["was"],
)
KNOWN = Gauge(
    "infrasight_cgroups_known", "Cgroups of which it is known whether they are a container's."
)

Walk = Callable[[], Iterable[tuple[int, str]]]


class CgroupIndex:
    """Filled by the tracker and by walks, asked by the recorder; by any thread.

    Where there is no more room, those that have gone are forgotten first, and of them, those that were not asked for longest.

    Args:
        walk: Gives the number and path of every cgroup that is there.
        limit: How many are kept.
    """

    def __init__(self, walk: Walk, limit: int = LIMIT) -> None:
        self._walk, self._limit = walk, limit
        self._there: OrderedDict[int, str] = OrderedDict()  # the container's id, empty for none
        self._gone: OrderedDict[int, str] = OrderedDict()
        self._walked: float | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._there) + len(self._gone)

    def begin(self) -> None:
        """What is there is to be seen anew: the next `look_around` walks."""
        with self._lock:
            self._walked = None

    def look_around(self, after: float = float("inf")) -> bool:
        """Walks, if it has not been done yet, or more than so many seconds ago; returns whether it did."""
        with self._lock:
            if self._walked is not None and time.monotonic() - self._walked < after:
                return False
            for key, path in self._walk():
                if key not in self._gone:  # it went while we walked
                    self._made(key, path)
            self._walked = time.monotonic()
            return True

    def made(self, key: int, path: str) -> None:
        """A cgroup has been made, or has another name now."""
        with self._lock:
            self._made(key, path)

    def gone(self, key: int, path: str) -> None:
        """A cgroup has been removed; events of it may still come."""
        with self._lock:
            self._there.pop(key, None)
            self._gone[key] = container_of(path)
            self._make_room()

    def containers(self, keys: Sequence[int]) -> list[str | None]:
        """The container of each cgroup: empty for one that is no container's, None for one that is not known."""
        with self._lock:
            found = [self._find(key) for key in keys]
        if None in found and self.look_around(AGAIN):
            with self._lock:
                found = [self._find(key) for key in keys]
        return found

    def _find(self, key: int) -> str | None:
        if key == ROOT:
            return ""
        for those in (self._there, self._gone):
            if key in those:
                those.move_to_end(key)
                return those[key]
        return None

    def _made(self, key: int, path: str) -> None:
        self._there[key] = container_of(path)
        self._there.move_to_end(key)
        self._make_room()

    def _make_room(self) -> None:
        while len(self) > self._limit:
            those, was = (self._gone, "gone") if self._gone else (self._there, "there")
            those.popitem(last=False)
            EVICTED.labels(was).inc()
        KNOWN.set(len(self))
