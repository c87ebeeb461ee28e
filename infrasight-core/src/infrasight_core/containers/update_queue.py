"""What the store is to be told of containers, in the order in which it was learned."""

from collections.abc import Callable, Sequence

import structlog
from infrasight.v1.stream_pb2 import Container
from prometheus_client import Counter

log = structlog.get_logger(__name__)
TOLD = Counter("infrasight_container_updates_queued", "Containers of which the store was told.")
DROPPED_UPDATES = Counter(
    "infrasight_container_lookup_updates_dropped",
    "Containers of which the store will not hear what was learned.",
)

_WAITING_BYTES = 16 << 20
_AT_ONCE_BYTES = 1 << 20  # about what one message to the server holds


class UpdateQueue:
    """Containers between being learned and being told. Not for several threads at once, but for `hand_over`.

    Args:
        tell: Gets them.
    """

    def __init__(self, tell: Callable[[Sequence[Container]], None]) -> None:
        self._tell = tell
        self._waiting: dict[str, Container] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, container: Container) -> None:
        """Takes one; of the same container the last word holds. Where too much waits, the oldest is let go and counted."""
        before = self._waiting.pop(container.container_id, None)
        self._bytes += container.ByteSize() - (before.ByteSize() if before else 0)
        self._waiting[container.container_id] = container
        while self._bytes > _WAITING_BYTES and len(self._waiting) > 1:
            self._pop()
            DROPPED_UPDATES.inc()

    def take(self) -> list[Container]:
        """As many as are told at once."""
        taken: list[Container] = []
        limit = self._bytes - _AT_ONCE_BYTES
        while self._waiting and (not taken or self._bytes > limit):
            taken.append(self._pop())
        return taken

    def hand_over(self, taken: list[Container]) -> None:
        """Tells; without any lock, for whoever listens may take his time."""
        try:
            self._tell(taken)
        except Exception:  # whatever the receiver's fault is, the next ones may arrive
            DROPPED_UPDATES.inc(len(taken))
            log.exception("containers not told", containers=len(taken))
        else:
            TOLD.inc(len(taken))

    def _pop(self) -> Container:
        container = self._waiting.pop(next(iter(self._waiting)))
        self._bytes -= container.ByteSize()
        return container
