"""Holds batches between the recorder and the server's acknowledgement, bounded in bytes.

The recorder's thread fills it and the uplink empties it. Batches live in memory: a batch that finds
no room is dropped and counted, and so is what remains when the agent ends without its server.
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
from infrasight_core.containers.bounds import find_violation
from infrasight_core.net import ipc

log = structlog.get_logger(__name__)
DROPPED = Counter(
    "infrasight_events_dropped",
    "Events that were recorded or due to be recorded and will never be stored, by reason.",
    ["probe", "reason"],
)
WAITING_BYTES = Gauge(
    "infrasight_outbox_bytes", "Bytes of batches that the server has not acknowledged."
)
ACKNOWLEDGED = Counter(
    "infrasight_events_acknowledged", "Events that the server has stored.", ["probe"]
)
DROPPED_UPDATES = Counter(
    "infrasight_container_updates_dropped",
    "Updates of containers that will never be stored, by reason.",
    ["reason"],
)
REJECTED = Counter(
    "infrasight_events_rejected", "Events that the server rejected, by reason.", ["probe", "reason"]
)


class Outbox(Sink):
    """The batches that no server has acknowledged.

    Args:
        limit: How many bytes it may hold.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._unsent: OrderedDict[str, Batch] = OrderedDict()
        self._sent: OrderedDict[str, Batch] = OrderedDict()
        self._bytes = 0  # of both, and of the updates
        self._updates = ContainerUpdates()
        self._accounts: dict[str, Batch] = {}  # the last account without a batch, by probe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filled = asyncio.Event()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sets the event loop in which `next_batch` is awaited."""
        self._loop = loop

    def put(self, delivery: Delivery) -> bool:
        """Adds a batch; see `Sink`. A batch without room is counted as dropped."""
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
            fits = self._bytes + _size(batch) <= self._limit
            if fits:
                self._unsent[batch.batch_id] = batch
                self._add_bytes(_size(batch))
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
        """Adds an account, in place of an unsent one of the same window; see `Sink`."""
        batch = Batch(
            batch_id=f"{account.run}-{account.window}-account-{account.number}",
            probe=probe,
            account=account,
        )
        with self._lock:
            previous = self._accounts.get(probe)
            if previous is not None and _window(previous.account) == _window(account):
                self._unsent.pop(previous.batch_id, None)
            self._accounts[probe] = batch
            self._unsent[batch.batch_id] = batch
        self._wake()

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts dropped events; the server learns of them from the next account."""
        DROPPED.labels(probe, reason).inc(events)

    def publish(self, containers: Sequence[Container]) -> None:
        """Adds updates of containers, each in place of an unsent one of its container.

        Updates that the server would reject, and those without room, are counted and logged.
        """
        for update in containers:
            if reason := find_violation(update):
                DROPPED_UPDATES.labels("malformed").inc()
                log.error("container update dropped", reason=reason)
                continue
            with self._lock:
                bytes_before = self._updates.bytes
                fits = self._updates.put(update, self._limit - self._bytes)
                self._add_bytes(self._updates.bytes - bytes_before)
            if not fits:
                DROPPED_UPDATES.labels("outbox_full").inc()
                log.warning(
                    "outbox full, container update dropped",
                    container=update.container_id,
                    limit=self._limit,
                )
        self._wake()

    async def next_batch(self) -> Batch:
        """Waits for the next batch to send: updates of containers first, then the oldest batch.

        The batch stays here until it is acknowledged or rejected.
        """
        while True:
            with self._lock:
                batch = self._updates.pop_batch()
                if batch is None and self._unsent:
                    _, batch = self._unsent.popitem(last=False)
                if batch is not None:
                    self._sent[batch.batch_id] = batch
                    return batch
                self._filled.clear()
            await self._filled.wait()

    def acknowledge(self, batch_id: str) -> bool:
        """Removes a batch that the server has stored. Returns whether it was sent and waited."""
        batch = self._pop_sent(batch_id)
        if batch is not None and batch.rows:
            ACKNOWLEDGED.labels(batch.probe).inc(batch.rows)
        return batch is not None

    def reject(self, batch_id: str, reason: str, detail: str) -> bool:
        """Removes a batch that the server will never store; it is counted and logged.

        Returns:
            Whether it was sent and waited for an answer.
        """
        batch = self._pop_sent(batch_id)
        if batch is None:
            return False
        if batch.containers:
            DROPPED_UPDATES.labels("rejected").inc(len(batch.containers))
            log.error(
                "container updates rejected by the server",
                containers=len(batch.containers),
                reason=reason,
                detail=detail,
            )
        else:
            REJECTED.labels(batch.probe, reason).inc(batch.rows)
            log.error(
                "batch rejected by the server",
                probe=batch.probe,
                events=batch.rows,
                reason=reason,
                detail=detail,
            )
        return True

    def resend_unacknowledged(self) -> None:
        """Queues what was sent but not acknowledged again, as retries before everything else.

        Updates of containers go back to the unsent ones, where a newer one replaces them.
        """
        with self._lock:
            retries: OrderedDict[str, Batch] = OrderedDict()
            for batch_id, batch in self._sent.items():
                if batch.containers:
                    self._add_bytes(-self._updates.put_back(batch.containers))
                else:
                    batch.retry = True
                    retries[batch_id] = batch
            retries.update(self._unsent)
            self._unsent = retries
            self._sent.clear()

    def waiting(self) -> tuple[int, int]:
        """Returns how many batches and events the server has not acknowledged.

        All unsent updates of containers count as one batch.
        """
        with self._lock:
            batches = [*self._sent.values(), *self._unsent.values()]
            has_updates = len(self._updates) > 0
        return len(batches) + has_updates, sum(batch.rows for batch in batches)

    def _pop_sent(self, batch_id: str) -> Batch | None:
        with self._lock:
            batch = self._sent.pop(batch_id, None)
            if batch is not None:
                self._add_bytes(-_size(batch))
        return batch

    def _add_bytes(self, count: int) -> None:
        self._bytes += count
        WAITING_BYTES.set(self._bytes)

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._filled.set)


def _size(batch: Batch) -> int:
    """Returns how many bytes a batch counts for against the limit; accounts are free."""
    return len(batch.arrow) + sum(update.ByteSize() for update in batch.containers)


def _window(account: Account) -> tuple[str, int]:
    return account.run, account.window
