"""The outbox: batches between the recorder and the server's acknowledgement, bounded in bytes.

This is the place of the disk spool in the way of the data. Until there is one, batches live in memory: a batch that finds no
room is dropped and counted, and what is here when the agent ends without its server is counted as lost.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from infrasight.v1.stream_pb2 import Account, Batch, Container
from prometheus_client import Counter, Gauge

from infrasight_core.agent.container_updates import ContainerUpdates
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.containers.bounds import fault
from infrasight_core.net import ipc

log = structlog.get_logger(__name__)
DROPPED = Counter("infrasight_events_dropped", "Events that will never come.", ["probe", "reason"])
WAITING = Gauge("infrasight_outbox_bytes", "Bytes of batches that no server has acknowledged.")
ACKNOWLEDGED = Counter(
    "infrasight_events_acknowledged", "Events that the server has stored.", ["probe"]
)
DROPPED_UPDATES = Counter(
    "infrasight_container_updates_dropped",
    "News of containers that no server will have.",
    ["reason"],
)
REJECTED = Counter(
    "infrasight_events_rejected", "Events that the server will never store.", ["probe", "reason"]
)


class Outbox(Sink):
    """Filled by the recorder's thread, emptied by the stream.

    Args:
        limit: How many bytes may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._unsent: OrderedDict[str, Batch] = OrderedDict()
        self._sent: OrderedDict[str, Batch] = OrderedDict()
        self._bytes = 0
        self._news = ContainerUpdates()
        self._accounts: dict[str, Batch] = {}  # by probe: the last one that went in by itself
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filled = asyncio.Event()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Names the loop that `next` is awaited in."""
        self._loop = loop

    def put(self, delivery: Delivery) -> bool:
        """Takes a batch; False, and counted, where there is no room. Never blocks."""
        batch = Batch(
            batch_id=delivery.batch_id,
            probe=delivery.probe,
            message_type=delivery.schema.message_type,
            fingerprint=delivery.schema.fingerprint,
            rows=delivery.batch.num_rows,
            arrow=ipc.to_bytes(delivery.batch),
            account=delivery.account,
        )
        with self._lock:
            if fits := self._bytes + _size(batch) <= self._limit:
                self._unsent[batch.batch_id] = batch
                self._bytes += _size(batch)
                WAITING.set(self._bytes)
        if fits:
            self._wake()
        else:
            self.count_dropped(batch.probe, "outbox_full", batch.rows)
            log.warning(
                "outbox full, batch dropped",
                probe=batch.probe,
                events=batch.rows,
                limit=self._limit,
            )
        return fits

    def put_account(self, probe: str, account: Account) -> None:
        """Takes an account that no batch carries; it takes the place of one of the same window that has not left yet."""
        batch = Batch(
            batch_id=f"{account.run}-{account.window}-account-{account.number}",
            probe=probe,
            account=account,
        )
        with self._lock:
            before = self._accounts.get(probe)
            if before and (before.account.run, before.account.window) == (
                account.run,
                account.window,
            ):
                self._unsent.pop(before.batch_id, None)
            self._unsent[batch.batch_id] = self._accounts[probe] = batch
        self._wake()

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts events that will never come; the server hears of them with the next account."""
        DROPPED.labels(probe, reason).inc(events)

    def publish(self, containers: Sequence[Container]) -> None:
        """Takes what has become known of containers; the newest of one takes the place of what has not left yet.

        What the server would refuse, and what finds no room, is counted and logged. Never blocks.
        """
        for news in containers:
            if wrong := fault(news):
                DROPPED_UPDATES.labels("malformed").inc()
                log.error("news of a container not taken", reason=wrong)
                continue
            with self._lock:
                before = self._news.bytes
                fits = self._news.put(news, self._limit - self._bytes)
                self._bytes += self._news.bytes - before
                WAITING.set(self._bytes)
            if not fits:
                DROPPED_UPDATES.labels("outbox_full").inc()
                log.warning(
                    "outbox full, news of a container dropped",
                    container=news.container_id,
                    limit=self._limit,
                )
        self._wake()

    async def next(self) -> Batch:
        """The next batch to send: news of containers, then the oldest; it stays here until it is acknowledged or rejected."""
        while True:
            with self._lock:
                if (news := self._news.take()) is not None:
                    self._sent[news.batch_id] = news
                    return news
                if self._unsent:
                    batch_id, batch = self._unsent.popitem(last=False)
                    self._sent[batch_id] = batch
                    return batch
                self._filled.clear()
            await self._filled.wait()

    def acknowledged(self, batch_id: str) -> None:
        """The store has the batch."""
        batch = self._take(batch_id)
        if batch is not None and batch.rows:
            ACKNOWLEDGED.labels(batch.probe).inc(batch.rows)

    def rejected(self, batch_id: str, reason: str, detail: str) -> None:
        """The store will never have the batch: it is let go, counted and logged."""
        batch = self._take(batch_id)
        if batch is not None and batch.containers:
            DROPPED_UPDATES.labels("rejected").inc(len(batch.containers))
            log.error(
                "news of containers rejected",
                containers=len(batch.containers),
                reason=reason,
                detail=detail,
            )
        elif batch is not None:
            REJECTED.labels(batch.probe, reason).inc(batch.rows)
            log.error(
                "batch rejected by the server",
                probe=batch.probe,
                events=batch.rows,
                reason=reason,
                detail=detail,
            )

    def disconnected(self) -> None:
        """What was sent and not acknowledged is to be sent again, marked as such, before the rest.

        News of containers go back among those that have not left, where newer ones take their place.
        """
        with self._lock:
            news = [batch for batch in self._sent.values() if batch.containers]
            self._bytes -= self._news.put_back(said for batch in news for said in batch.containers)
            again = {
                batch_id: batch for batch_id, batch in self._sent.items() if not batch.containers
            }
            for batch in again.values():
                batch.retry = True
            self._unsent = OrderedDict([*again.items(), *self._unsent.items()])
            self._sent.clear()
            WAITING.set(self._bytes)

    def waiting(self) -> tuple[int, int]:
        """How many batches and events wait for an acknowledgement; all news of containers that have not left are one batch."""
        with self._lock:
            batches = [*self._sent.values(), *self._unsent.values()]
            news = bool(self._news)
        return len(batches) + news, sum(batch.rows for batch in batches)

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._filled.set)

    def _take(self, batch_id: str) -> Batch | None:
        with self._lock:
            batch = self._sent.pop(batch_id, None)
            if batch is not None:
                self._bytes -= _size(batch)
                WAITING.set(self._bytes)
        return batch


def _size(batch: Batch) -> int:
    """What a batch counts against the limit."""
    return len(batch.arrow) + sum(news.ByteSize() for news in batch.containers)
