"""News of containers that have not left the agent: the newest of each, and batches of them."""

import time
from collections import OrderedDict
from collections.abc import Iterable

from infrasight.v1.stream_pb2 import Batch, Container

BATCH_CONTAINERS, BATCH_BYTES = 500, 1 << 20


class ContainerUpdates:
    """What is to be told of containers. Not for several threads at once: the outbox holds its lock.

    Attributes:
        bytes: What they take.
    """

    def __init__(self) -> None:
        self._unsent: OrderedDict[str, Container] = OrderedDict()
        self._number = 0
        self.bytes = 0

    def __len__(self) -> int:
        """How many containers there are news of."""
        return len(self._unsent)

    def put(self, news: Container, room: int) -> bool:
        """Takes news in place of older ones of the same container; False where they take more than `room` bytes."""
        before = self._unsent.get(news.container_id)
        more = news.ByteSize() - (before.ByteSize() if before else 0)
        if more > room:
            return False
        self._unsent[news.container_id] = news
        self.bytes += more
        return True

    def put_back(self, sent: Iterable[Container]) -> int:
        """Takes what was sent and not acknowledged, but for what is newer here; returns how many bytes of it are not kept."""
        older = 0
        for news in sent:
            if news.container_id in self._unsent:
                older += news.ByteSize()
            else:
                self._unsent[news.container_id] = news
                self.bytes += news.ByteSize()
        return older

    def take(self) -> Batch | None:
        """The next batch, those first that have waited longest; None where there is nothing to tell."""
        if not self._unsent:
            return None
        self._number += 1
        batch = Batch(
            batch_id=f"containers-{int(time.time() // 60)}-{time.time_ns():x}-{self._number}"
        )
        size = 0
        while self._unsent and len(batch.containers) < BATCH_CONTAINERS and size < BATCH_BYTES:
            _, news = self._unsent.popitem(last=False)
            batch.containers.append(news)
            size += news.ByteSize()
        self.bytes -= size
        return batch
