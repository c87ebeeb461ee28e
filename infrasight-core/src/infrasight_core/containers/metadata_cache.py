"""What is known of containers, bounded in number and bytes; what was used longest ago goes first."""

from collections import OrderedDict
from collections.abc import Iterator

from attrs import define
from infrasight.v1.stream_pb2 import Container
from prometheus_client import Counter

from infrasight_core.containers.description import digest, without_labels

EVICTED = Counter(
    "infrasight_containers_evicted", "Containers that had to be forgotten for want of room."
)
_ENTRY_BYTES = 600  # of an entry without its texts


@define
class Entry:
    """One container id.

    Attributes:
        container: What is known; without its labels once they were told.
        digest: Of all that is known, labels too.
        told: The digest of what was told last.
        had_events: Whether rows name it: only then it is told of.
        rejections: How often all runtimes knew nothing of it.
        again: From when on it may be asked of again, by the monotonic clock.
    """

    container: Container | None = None
    digest: bytes = b""
    told: bytes = b""
    had_events: bool = False
    rejections: int = 0
    again: float = 0.0

    @property
    def size(self) -> int:
        """About as many bytes as it takes."""
        return _ENTRY_BYTES + (self.container.ByteSize() if self.container is not None else 0)


class MetadataCache:
    """Entries by container id. Not for several threads at once.

    Args:
        entries: How many there may be.
        size: How many bytes they may take.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._most, self._limit = entries, size
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, container_id: str) -> Entry | None:
        """The entry, which counts as used."""
        entry = self._entries.get(container_id)
        if entry is not None:
            self._entries.move_to_end(container_id)
        return entry

    def add(self, container_id: str) -> Entry:
        """A new entry of which nothing is known; others may go for it."""
        entry = self._entries[container_id] = Entry()
        self.bytes += entry.size
        self._shrink()
        return entry

    def learn(self, container_id: str, container: Container) -> bool:
        """Keeps what a runtime said; False where it is nothing new.

        Where two runtimes have the same container (cri-dockerd and Docker), what the CRI says holds: it knows the pod.
        """
        entry = self.get(container_id) or self.add(container_id)
        known, said = entry.container, digest(container)
        if said == entry.digest or (
            known is not None and known.runtime == "cri" != container.runtime
        ):
            return False
        self.bytes -= entry.size
        entry.container, entry.digest = container, said
        self.bytes += entry.size
        self._shrink()
        return True

    def tell(self, entry: Entry) -> Container | None:
        """What is to be told of a container, if anything is; from now on only what rows need of it is kept."""
        whole = entry.container
        if whole is None or not entry.had_events or entry.told == entry.digest:
            return None
        self.bytes -= entry.size
        entry.told, entry.container = entry.digest, without_labels(whole)
        self.bytes += entry.size
        return whole

    def _shrink(self) -> None:
        """The newest one stays, whatever its size."""
        while len(self._entries) > 1 and (
            len(self._entries) > self._most or self.bytes > self._limit
        ):
            _, entry = self._entries.popitem(last=False)
            self.bytes -= entry.size
            EVICTED.inc()
