"""An index of cgroups: the container that each belongs to, also after its removal; bounded.

A cgroup's name identifies a container only if root created the cgroup. A user to whom a part of the
hierarchy is delegated can create cgroups of any name there, also that of another's container. For
such a cgroup the index has a `Claim`, which the user's own container runtime may confirm.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from attrs import frozen
from prometheus_client import Counter, Gauge

from infrasight_core.containers.cgroup_paths import container_cgroups_of
from infrasight_core.containers.cgroup_walk import ROOT_USER, UNKNOWN_USER, Cgroup
from infrasight_core.kernel.cgroups import ROOT, V1

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
CLAIMED = Counter(
    "infrasight_cgroups_claimed",
    "Cgroups that have a container's name but that root did not create. Their events have no "
    "container, unless a container runtime of the user who created them confirms it.",
)

Walk = Callable[[], Iterable[Cgroup]]


@frozen
class Claim:
    """The container that a cgroup belongs to by its name alone.

    Attributes:
        container_id: The container.
        maker: The user who created the cgroup.
    """

    container_id: str
    maker: int


Owner = str | Claim  # of a cgroup: a container id, empty outside of containers, or a claim


class CgroupIndex:
    """Maps cgroup ids to container ids. The tracker and walks fill it; any thread may use it.

    A full index evicts removed cgroups first, and of those the least recently used.

    Args:
        walk: Yields every present cgroup.
        limit: The largest number of cgroups in the index.
    """

    def __init__(self, walk: Walk, limit: int = MAX_CGROUPS) -> None:
        self._walk = walk
        self._limit = limit
        self._present: OrderedDict[int, Owner] = OrderedDict()
        self._removed: OrderedDict[int, Owner] = OrderedDict()
        # Containers' own cgroups that root created, by hierarchy and path. Everything below belongs
        # to the container, regardless of its maker.
        self._created_by_root: OrderedDict[tuple[int, str], None] = OrderedDict()
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
            for cgroup in sorted(self._walk(), key=lambda cgroup: cgroup.path.count("/")):
                if cgroup.id in self._removed:  # it was removed during the walk
                    continue
                # The tracker saw who created a cgroup; the walk sees who could have.
                is_known = isinstance(self._present.get(cgroup.id), str)
                if cgroup.maker == ROOT_USER:
                    self._trust_all_on(cgroup)
                if cgroup.maker == ROOT_USER or not is_known:
                    self._insert(cgroup)
            self._walked_at = time.monotonic()
            return True

    def add(self, cgroup_id: int, path: str, maker: int) -> Owner:
        """Adds a cgroup that a user created or renamed; returns its container."""
        with self._lock:
            return self._insert(Cgroup(cgroup_id, path, maker))

    def mark_removed(self, cgroup_id: int, path: str) -> None:
        """Marks a cgroup as removed; it stays in the index because events of it may still come."""
        with self._lock:
            owner = self._present.pop(cgroup_id, None)
            if owner is None:
                owner = self._owner_of(Cgroup(cgroup_id, path, UNKNOWN_USER))
            self._removed[cgroup_id] = owner
            self._created_by_root.pop((cgroup_id & V1, path), None)
            self._evict()

    def containers_of(self, cgroup_ids: Sequence[int]) -> list[Owner | None]:
        """Returns the container of each cgroup; None for an unknown cgroup."""
        with self._lock:
            containers = [self._find(cgroup_id) for cgroup_id in cgroup_ids]
        if None in containers and self.refresh(_WALK_INTERVAL):
            with self._lock:
                containers = [self._find(cgroup_id) for cgroup_id in cgroup_ids]
        return containers

    def _find(self, cgroup_id: int) -> Owner | None:
        if cgroup_id == ROOT:
            return ""
        for cgroups in (self._present, self._removed):
            if cgroup_id in cgroups:
                cgroups.move_to_end(cgroup_id)
                return cgroups[cgroup_id]
        return None

    def _insert(self, cgroup: Cgroup) -> Owner:
        owner = self._owner_of(cgroup)
        known = self._present.get(cgroup.id)
        if isinstance(owner, Claim) and owner != known:
            CLAIMED.inc()
        self._present[cgroup.id] = owner
        self._present.move_to_end(cgroup.id)
        self._evict()
        return owner

    def _trust_all_on(self, cgroup: Cgroup) -> None:
        """Trusts every cgroup on a path on which only root can create cgroups."""
        for path, _ in container_cgroups_of(cgroup.path):
            self._created_by_root[cgroup.id & V1, path] = None

    def _owner_of(self, cgroup: Cgroup) -> Owner:
        """Finds the innermost container whose own cgroup root created; else makes a claim."""
        hierarchy = cgroup.id & V1
        claimed_id = ""
        for path, container_id in container_cgroups_of(cgroup.path):
            place = (hierarchy, path)
            if path == cgroup.path and cgroup.maker == ROOT_USER:
                self._created_by_root[place] = None
            elif path == cgroup.path:
                self._created_by_root.pop(place, None)
            if place in self._created_by_root:
                self._created_by_root.move_to_end(place)
                return container_id
            claimed_id = claimed_id or container_id
        return Claim(claimed_id, cgroup.maker) if claimed_id else ""

    def _evict(self) -> None:
        while len(self) > self._limit:
            if self._removed:
                self._removed.popitem(last=False)
                EVICTED.labels("removed").inc()
            else:
                self._present.popitem(last=False)
                EVICTED.labels("present").inc()
        while len(self._created_by_root) > self._limit:
            self._created_by_root.popitem(last=False)
        INDEXED.set(len(self))
