"""An index of cgroups: the container that each belongs to, also after its removal; bounded."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Counter, Gauge

from infrasight_core.containers.cgroup_paths import container_id_of
from infrasight_core.kernel.cgroups import ROOT

MAX_CGROUPS = 65536
_WALK_INTERVAL = 30.0  # seconds after which an unknown cgroup causes another walk

EVICTED = Counter(
    "infrasight_cgroups_evicted",
    "Cgroups that were evicted from the index to make room, by whether they were still present or "
    "already removed. Later events of such a cgroup may lack their container.",
    ["state"],
)
INDEXED = Gauge(
    "infrasight_cgroups_indexed",
    "Cgroups in the index that maps each cgroup to its container.",
)

Walk = Callable[[], Iterable[tuple[int, str]]]


class CgroupIndex:
    """Maps cgroup ids to container ids. The tracker and walks fill it; any thread may use it.

    A full index evicts removed cgroups first, and of those the least recently used.

    Args:
        walk: Yields the id and the path of every present cgroup.
        limit: The largest number of cgroups in the index.
    """

    def __init__(self, walk: Walk, limit: int = MAX_CGROUPS) -> None:
        self._walk = walk
        self._limit = limit
        # The container id by cgroup id; an empty one for a cgroup outside of containers.
        self._present: OrderedDict[int, str] = OrderedDict()
        self._removed: OrderedDict[int, str] = OrderedDict()
        self._walked_at: float | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._present) + len(self._removed)

    def require_walk(self) -> None:
        """Makes the next `refresh` walk, however short ago the last walk was."""
        with self._lock:
            self._walked_at = None

    def refresh(self, min_age: float = float("inf")) -> bool:
        """Walks if there was no walk yet, or if the last one is older than `min_age` seconds.

        Returns:
            Whether it walked.
        """
        with self._lock:
            if self._walked_at is not None and time.monotonic() - self._walked_at < min_age:
                return False
            for cgroup_id, path in self._walk():
                if cgroup_id not in self._removed:  # it was removed during the walk
                    self._insert(cgroup_id, path)
            self._walked_at = time.monotonic()
            return True

    def add(self, cgroup_id: int, path: str) -> None:
        """Adds a cgroup that was created or renamed."""
        with self._lock:
            self._insert(cgroup_id, path)

    def mark_removed(self, cgroup_id: int, path: str) -> None:
        """Marks a cgroup as removed; it stays in the index because events of it may still come."""
        with self._lock:
            self._present.pop(cgroup_id, None)
            self._removed[cgroup_id] = container_id_of(path)
            self._evict()

    def containers_of(self, cgroup_ids: Sequence[int]) -> list[str | None]:
        """Returns the container of each cgroup.

        Returns:
            Container ids; empty for a cgroup outside of containers, None for an unknown cgroup.
        """
        with self._lock:
            containers = [self._find(cgroup_id) for cgroup_id in cgroup_ids]
        if None in containers and self.refresh(_WALK_INTERVAL):
            with self._lock:
                containers = [self._find(cgroup_id) for cgroup_id in cgroup_ids]
        return containers

    def _find(self, cgroup_id: int) -> str | None:
        if cgroup_id == ROOT:
            return ""
        for cgroups in (self._present, self._removed):
            if cgroup_id in cgroups:
                cgroups.move_to_end(cgroup_id)
                return cgroups[cgroup_id]
        return None

    def _insert(self, cgroup_id: int, path: str) -> None:
        self._present[cgroup_id] = container_id_of(path)
        self._present.move_to_end(cgroup_id)
        self._evict()

    def _evict(self) -> None:
        while len(self) > self._limit:
            if self._removed:
                self._removed.popitem(last=False)
                EVICTED.labels("removed").inc()
            else:
                self._present.popitem(last=False)
                EVICTED.labels("present").inc()
        INDEXED.set(len(self))
