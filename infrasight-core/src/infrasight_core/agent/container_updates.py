"""Queues updates of containers in the outbox: the newest of each container, in batches."""

import time
from collections import OrderedDict
from collections.abc import Iterable

from infrasight.v1.stream_pb2 import Batch, Container

BATCH_CONTAINERS = 500
BATCH_BYTES = 1 << 20


class ContainerUpdates:
    """The updates that have not been sent. The outbox's lock protects it.

    Attributes:
        bytes: Their size.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._unsent: OrderedDict[str, Container] = OrderedDict()
        self._batches = 0

    def __len__(self) -> int:
        """The number of containers with an update."""
        return len(self._unsent)

    def put(self, update: Container, room: int) -> bool:
        """Queues an update in place of an older one of the same container.

        Args:
            update: The update.
            room: How many bytes may be added.

        Returns:
            False if there is not enough room.
        """
        older = self._unsent.get(update.container_id)
        added = update.ByteSize() - (older.ByteSize() if older else 0)
        if added > room:
            return False
        self._unsent[update.container_id] = update
        self.bytes += added
        return True

    def put_back(self, sent: Iterable[Container]) -> int:
        """Queues updates again that were sent but not acknowledged, unless there is a newer one.

        Returns:
            The size of the outdated updates, which are discarded.
        """
        discarded = 0
        for update in sent:
            if update.container_id in self._unsent:
                discarded += update.ByteSize()
            else:
                self._unsent[update.container_id] = update
                self.bytes += update.ByteSize()
        return discarded

    def pop_batch(self) -> Batch | None:
        """Removes a batch of the oldest updates; None if there are none."""
        if not self._unsent:
            return None
        self._batches += 1
        minute = int(time.time() // 60)
        batch = Batch(batch_id=f"containers-{minute}-{time.time_ns():x}-{self._batches}")
        size = 0
        while self._unsent and len(batch.containers) < BATCH_CONTAINERS and size < BATCH_BYTES:
            _, update = self._unsent.popitem(last=False)
            batch.containers.append(update)
            size += update.ByteSize()
        self.bytes -= size
        return batch
