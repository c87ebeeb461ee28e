"""Holds batches between the recorder and the server's acknowledgement, bounded in bytes.

The recorder's thread fills it and the uplink empties it. With a spool, each batch is on disk before
`put` returns, and in memory as well while there is room. Without one, batches live in memory alone.
A batch that finds no room is dropped and counted, and so is what is in memory alone when the agent
ends without its server.
"""

import asyncio
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence

import structlog
from attrs import define
from infrasight.v1.stream_pb2 import Account, Batch, Container
from prometheus_client import Counter, Gauge

from infrasight_core.agent.bounded_spool import BoundedSpool
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
    "infrasight_outbox_bytes", "Bytes of batches in memory that the server has not acknowledged."
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


@define(eq=False)
class _Waiting:
    """A batch that waits to be sent, or for the server's answer.

    Attributes:
        batch_id: Its id.
        probe: Its probe.
        rows: The number of its events.
        size: The bytes that count against the limits; accounts are free.
        batch: The batch; None if it is on disk alone.
        order: Its place among all batches, in the order in which they were made.
        number: Its number in the spool; 0 if it is not there.
        seconds: When it was made, in seconds since the epoch.
        is_retry: Whether it may have been sent before.
        is_dropped: Whether its rows have been dropped and counted.
    """

    batch_id: str
    probe: str
    rows: int
    size: int
    batch: Batch | None
    order: int = 0
    number: int = 0
    seconds: float = 0.0
    is_retry: bool = False
    is_dropped: bool = False

    @property
    def memory(self) -> int:
        """The bytes that it takes in memory."""
        return 0 if self.batch is None else self.size


class Outbox(Sink):
    """The batches that no server has acknowledged.

    Args:
        limit: How many bytes it may hold in memory.
        spool: Stores batches on disk; what it holds already is sent first. None for memory alone.
    """

    def __init__(self, limit: int, spool: BoundedSpool | None = None) -> None:
        self._limit = limit
        self._spool = spool
        self._lock = threading.Lock()
        self._unsent: OrderedDict[str, _Waiting] = OrderedDict()
        self._held: OrderedDict[str, _Waiting] = OrderedDict()  # of probes that are not accepted
        self._held_probes: frozenset[str] = frozenset()
        self._orders = itertools.count(1)
        self._sent: OrderedDict[str, _Waiting] = OrderedDict()
        self._bytes = 0  # in memory: of both, and of the updates
        self._updates = ContainerUpdates()
        self._accounts: dict[str, Batch] = {}  # the last account without a batch, by probe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filled = asyncio.Event()
        self._add_left()

    @property
    def problem(self) -> str:
        """Why batches are not stored on disk although they should be; "" if they are."""
        return f"spool: {self._spool.problem}" if self._spool and self._spool.problem else ""

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
            arrow=ipc.to_frame(delivery.batch),
            account=delivery.account,
        )
        size = _size(batch)
        number = self._store(batch, size)
        self._add_left()
        with self._lock:
            fits = self._bytes + size <= self._limit
            if fits or number:
                waiting = _Waiting(
                    batch_id=batch.batch_id,
                    probe=batch.probe,
                    rows=batch.rows,
                    size=size,
                    batch=batch if fits else None,
                    number=number,
                    seconds=time.time(),
                )
                self._queue(waiting)
                self._add_bytes(waiting.memory)
        if fits or number:
            self._wake()
            return True
        self.count_dropped(batch.probe, "outbox_full", batch.rows)
        log.warning(
            "outbox full, batch dropped", probe=batch.probe, events=batch.rows, limit=self._limit
        )
        return False

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
                self._held.pop(previous.batch_id, None)
            self._accounts[probe] = batch
            self._queue(_Waiting(batch.batch_id, probe, 0, 0, batch))
        if self._spool is not None:
            self._drop_expired(self._spool)
            self._spool.flush()
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

    def hold(self, probes: Collection[str]) -> None:
        """Sends the batches of these probes no longer, and those of all others again.

        The server does not accept them; it may after its next start. Until then they wait here.
        """
        with self._lock:
            self._held_probes = frozenset(probes)
            waiting = [*self._held.values(), *self._unsent.values()]
            self._held.clear()
            self._unsent.clear()
            for each in sorted(waiting, key=lambda each: each.order):
                self._queue(each)
        self._wake()

    def can_send(self) -> bool:
        """Returns whether the server can be expected to acknowledge more."""
        with self._lock:
            return bool(self._sent or self._unsent or len(self._updates))

    async def next_batch(self) -> Batch:
        """Waits for the next batch to send: updates of containers first, then the oldest batch.

        The batch stays here until it is acknowledged or rejected.
        """
        while True:
            waiting = self._send_next()
            if waiting is None:
                await self._filled.wait()
                continue
            batch = await self._content(waiting)
            if batch is not None:
                return batch

    def acknowledge(self, batch_id: str) -> bool:
        """Removes a batch that the server has stored. Returns whether it was sent and waited."""
        waiting = self._pop_sent(batch_id)
        if waiting is not None and waiting.rows and not waiting.is_dropped:
            ACKNOWLEDGED.labels(waiting.probe).inc(waiting.rows)
        return waiting is not None

    def reject(self, batch_id: str, reason: str, detail: str) -> bool:
        """Removes a batch that the server will never store; it is counted and logged.

        Returns:
            Whether it was sent and waited for an answer.
        """
        waiting = self._pop_sent(batch_id)
        if waiting is None:
            return False
        containers = waiting.batch.containers if waiting.batch is not None else ()
        if containers:
            DROPPED_UPDATES.labels("rejected").inc(len(containers))
            log.error(
                "container updates rejected by the server",
                containers=len(containers),
                reason=reason,
                detail=detail,
            )
        elif not waiting.is_dropped:
            REJECTED.labels(waiting.probe, reason).inc(waiting.rows)
            log.error(
                "batch rejected by the server",
                probe=waiting.probe,
                events=waiting.rows,
                reason=reason,
                detail=detail,
            )
        return True

    def resend_unacknowledged(self) -> None:
        """Queues what was sent but not acknowledged again, as retries before everything else.

        Updates of containers go back to the unsent ones, where a newer one replaces them.
        """
        with self._lock:
            retries: OrderedDict[str, _Waiting] = OrderedDict()
            for batch_id, waiting in self._sent.items():
                if waiting.batch is not None and waiting.batch.containers:
                    self._add_bytes(-self._updates.put_back(waiting.batch.containers))
                else:
                    waiting.is_retry = True
                    retries[batch_id] = waiting
            retries.update(self._unsent)
            self._unsent = retries
            self._sent.clear()

    def waiting(self) -> tuple[int, int]:
        """Returns how many batches and events the server has not acknowledged.

        All unsent updates of containers count as one batch.
        """
        with self._lock:
            batches = [*self._sent.values(), *self._held.values(), *self._unsent.values()]
            has_updates = len(self._updates) > 0
        return len(batches) + has_updates, sum(waiting.rows for waiting in batches)

    def close(self) -> tuple[int, int]:
        """Stores what is in memory alone on disk, and closes the spool.

        Returns:
            How many events wait on disk for the next start, and how many are lost.
        """
        with self._lock:
            left = [*self._sent.values(), *self._held.values(), *self._unsent.values()]
        spooled = 0
        lost = 0
        for waiting in left:
            if self._spool and not waiting.number and waiting.batch and waiting.probe:
                waiting.number = self._store(waiting.batch, waiting.size)
            if waiting.number:
                spooled += waiting.rows
            else:
                lost += waiting.rows
        if self._spool is not None:
            self._spool.close()
        return spooled, lost

    def _queue(self, waiting: _Waiting) -> None:
        """Adds a batch to those to be sent, or to those that are held. The lock is held."""
        waiting.order = waiting.order or next(self._orders)
        self._queue_of(waiting)[waiting.batch_id] = waiting

    def _queue_of(self, waiting: _Waiting) -> OrderedDict[str, _Waiting]:
        return self._held if waiting.probe in self._held_probes else self._unsent

    def _add_left(self) -> None:
        """Adds what the spool held when it was opened."""
        for left in self._spool.take_left() if self._spool else ():
            waiting = _Waiting(
                batch_id=left.batch_id,
                probe=left.probe,
                rows=left.rows,
                size=left.size,
                batch=None,
                number=left.number,
                seconds=left.seconds,
                is_retry=True,
            )
            with self._lock:
                self._queue(waiting)

    def _store(self, batch: Batch, size: int) -> int:
        """Stores a batch on disk. Returns its number; 0 if it is not there."""
        spool = self._spool
        if spool is None:
            return 0
        if spool.drops_oldest and spool.missing_bytes(size):
            self._drop_oldest(spool, size)
        return 0 if spool.missing_bytes(size) else spool.store(batch, size)

    def _drop_oldest(self, spool: BoundedSpool, size: int) -> None:
        """Drops the rows of the oldest unsent batches until a batch of this size fits."""
        for waiting in self._droppable():
            if not spool.missing_bytes(size):
                return
            self._drop_rows(spool, waiting, "spool_full")

    def _drop_expired(self, spool: BoundedSpool) -> None:
        """Drops the rows of unsent batches that are too old."""
        for waiting in self._droppable():
            if not spool.is_expired(waiting.seconds):
                return
            self._drop_rows(spool, waiting, "spool_expired")

    def _droppable(self) -> Iterator[_Waiting]:
        """Yields the unsent batches that have rows on disk, oldest first."""
        with self._lock:
            unsent = [*self._held.values(), *self._unsent.values()]
        for waiting in sorted(unsent, key=lambda each: each.order):
            if waiting.number and waiting.size and not waiting.is_dropped:
                yield waiting

    def _drop_rows(self, spool: BoundedSpool, waiting: _Waiting, reason: str) -> None:
        """Drops a batch's rows. Its head is still sent: the server records how many are missing."""
        batch = waiting.batch or spool.load(waiting.number)
        with self._lock:
            queue = self._queue_of(waiting)
            if queue.get(waiting.batch_id) is not waiting:
                return  # it is being sent
            self._add_bytes(-waiting.memory)
            size = waiting.size
            waiting.size = 0
            waiting.is_dropped = True
            head = head_of(batch) if batch is not None else _missing(waiting)
            head.dropped = True
            waiting.batch = head
        spool.strip(waiting.number, head, size)
        self.count_dropped(waiting.probe, reason, waiting.rows)
        log.warning(
            "batch dropped from the spool",
            probe=waiting.probe,
            events=waiting.rows,
            reason=reason,
        )

    def _send_next(self) -> _Waiting | None:
        """Moves the next batch to the sent ones; None if there is none."""
        with self._lock:
            updates = self._updates.pop_batch()
            if updates is not None:
                waiting = _Waiting(updates.batch_id, "", 0, _size(updates), updates)
            elif self._unsent:
                _, waiting = self._unsent.popitem(last=False)
            else:
                self._filled.clear()
                return None
            self._sent[waiting.batch_id] = waiting
            return waiting

    async def _content(self, waiting: _Waiting) -> Batch | None:
        """Returns a batch to send. One that is on disk leaves the memory.

        One that cannot be read again is sent without its rows, which are counted as dropped.
        """
        batch = waiting.batch
        if batch is None and self._spool is not None:
            batch = await asyncio.to_thread(self._spool.load, waiting.number)
        with self._lock:
            if self._sent.get(waiting.batch_id) is not waiting:
                return None
            if waiting.number and waiting.batch is not None:
                self._add_bytes(-waiting.memory)
                waiting.batch = None
        if batch is None:
            batch = _missing(waiting)
            waiting.is_dropped = True
            self.count_dropped(waiting.probe, "spool_damaged", waiting.rows)
        batch.retry = waiting.is_retry
        return batch

    def _pop_sent(self, batch_id: str) -> _Waiting | None:
        with self._lock:
            waiting = self._sent.pop(batch_id, None)
            if waiting is not None:
                self._add_bytes(-waiting.memory)
        if waiting is not None and waiting.number and self._spool is not None:
            self._spool.remove(waiting.number, waiting.size)
        return waiting

    def _add_bytes(self, count: int) -> None:
        self._bytes += count
        WAITING_BYTES.set(self._bytes)

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._filled.set)


def _size(batch: Batch) -> int:
    """Returns how many bytes a batch counts for against the limit; accounts are free."""
    return len(batch.arrow) + sum(update.ByteSize() for update in batch.containers)


def head_of(batch: Batch) -> Batch:
    """Returns a batch without its rows; the server records how many are missing."""
    return Batch(
        batch_id=batch.batch_id,
        probe=batch.probe,
        message_type=batch.message_type,
        fingerprint=batch.fingerprint,
        rows=batch.rows,
        account=batch.account if batch.HasField("account") else None,
    )


def _missing(waiting: _Waiting) -> Batch:
    """Returns what is left of a batch that cannot be read."""
    return Batch(batch_id=waiting.batch_id, probe=waiting.probe, rows=waiting.rows, dropped=True)


def _window(account: Account) -> tuple[str, int]:
    return account.run, account.window
