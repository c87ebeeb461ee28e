"""A cache of container metadata, bounded in entries and bytes; it evicts the oldest entries."""

from collections import OrderedDict
from collections.abc import Iterator

from attrs import define, field
from infrasight.v1.stream_pb2 import Container
from prometheus_client import Counter

from infrasight_core.containers.description import content_digest, without_labels

EVICTED = Counter(
    "infrasight_containers_evicted",
    "Containers whose metadata was evicted from the cache to make room.",
)
_ENTRY_BYTES = 600  # the size of an entry without its texts


@define
class CacheEntry:
    """The metadata of one container.

    Attributes:
        container: The metadata, if any is known; without labels once it was published.
        digest: The digest of the metadata including labels.
        published_digest: The digest of the metadata that was published last.
        has_events: Whether rows name the container; only then its metadata is published.
        failed_lookups: The number of lookups in which no runtime knew the container.
        retry_at: The earliest time of the next lookup, by the monotonic clock.
        reported_by: The users who own the sockets of the runtimes that reported the container.
    """

    container: Container | None = None
    digest: bytes = b""
    published_digest: bytes = b""
    has_events: bool = False
    failed_lookups: int = 0
    retry_at: float = 0.0
    reported_by: set[int] = field(factory=set)

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return _ENTRY_BYTES + (self.container.ByteSize() if self.container is not None else 0)


class MetadataCache:
    """Entries by container id. Not thread-safe.

    Args:
        max_entries: The largest number of entries.
        max_bytes: The largest size of all entries together.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, CacheEntry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, container_id: str) -> CacheEntry | None:
        """Returns the entry, which then counts as used."""
        entry = self._entries.get(container_id)
        if entry is not None:
            self._entries.move_to_end(container_id)
        return entry

    def add(self, container_id: str) -> CacheEntry:
        """Adds an entry without metadata; it may evict others."""
        entry = self._entries[container_id] = CacheEntry()
        self.bytes += entry.size
        self._evict()
        return entry

    def update(self, container_id: str, container: Container) -> bool:
        """Stores the metadata that a runtime reported.

        Two runtimes may report the same container (cri-dockerd and Docker). The CRI then takes
        precedence because it knows the pod.

        Returns:
            Whether the metadata changed.
        """
        entry = self.get(container_id) or self.add(container_id)
        digest = content_digest(container)
        if digest == entry.digest:
            return False
        known = entry.container
        if known is not None and known.runtime == "cri" and container.runtime != "cri":
            return False
        self.bytes -= entry.size
        entry.container = container
        entry.digest = digest
        self.bytes += entry.size
        self._evict()
        return True

    def pop_unpublished(self, entry: CacheEntry) -> Container | None:
        """Returns metadata to publish, if there is any, and discards the labels of the entry."""
        container = entry.container
        if container is None or not entry.has_events or entry.published_digest == entry.digest:
            return None
        self.bytes -= entry.size
        entry.published_digest = entry.digest
        entry.container = without_labels(container)
        self.bytes += entry.size
        return container

    def _evict(self) -> None:
        """Evicts entries until the bounds hold; the newest one stays, whatever its size."""
        while len(self._entries) > 1 and self._is_over_limit():
            _, entry = self._entries.popitem(last=False)
            self.bytes -= entry.size
            EVICTED.inc()

    def _is_over_limit(self) -> bool:
        return len(self._entries) > self._max_entries or self.bytes > self._max_bytes
