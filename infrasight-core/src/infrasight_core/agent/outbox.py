"""The outbox: batches between the recorder and the server's acknowledgement, bounded in bytes.

This is the place of the disk spool in the way of the data. Until there is one, batches live in memory: a batch that finds no
room is dropped and counted, and what is here when the agent ends without its server is counted as lost.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from infrasight.v1.stream_pb2 import Account, Batch, Container
from prometheus_client import Counter, Gauge

from infrasight_core import ipc
from infrasight_core.agent.recorder import Delivery

log = structlog.get_logger(__name__)
DROPPED = Counter("infrasight_events_dropped", "Events that will never come.", ["probe", "reason"])
WAITING = Gauge("infrasight_outbox_bytes", "Bytes of batches that no server has acknowledged.")
ACKNOWLEDGED = Counter("infrasight_events_acknowledged", "Events that the server has stored.", ["probe"])
REFUSED = Counter("infrasight_events_refused", "Events that the server will never store.", ["probe", "reason"])


class Outbox:
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
            if fits := self._bytes + len(batch.arrow) <= self._limit:
                self._unsent[batch.batch_id] = batch
                self._bytes += len(batch.arrow)
                WAITING.set(self._bytes)
        if fits:
            self._wake()
        else:
            self.dropped(batch.probe, "outbox_full", batch.rows)
            log.warning("outbox full, batch dropped", probe=batch.probe, events=batch.rows, limit=self._limit)
        return fits

    def account(self, probe: str, account: Account) -> None:
        """Takes an account that no batch carries; it takes the place of one of the same window that has not left yet."""
        batch = Batch(batch_id=f"{account.run}-{account.window}-account-{account.number}", probe=probe, account=account)
        with self._lock:
            before = self._accounts.get(probe)
            if before and (before.account.run, before.account.window) == (account.run, account.window):
                self._unsent.pop(before.batch_id, None)
            self._unsent[batch.batch_id] = self._accounts[probe] = batch
        self._wake()

    def dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts events that will never come; the server hears of them with the next account."""
        DROPPED.labels(probe, reason).inc(events)

    def containers(self, found: Sequence[Container]) -> None:
        """Takes what has become known of containers."""
        batch = Batch(batch_id=f"containers-{time.time_ns():x}", containers=found)
        with self._lock:
            self._unsent[batch.batch_id] = batch
        self._wake()

    async def next(self) -> Batch:
        """The next batch to send, oldest first; it stays here until it is acknowledged or refused."""
        while True:
            with self._lock:
                if self._unsent:
                    batch_id, batch = self._unsent.popitem(last=False)
                    self._sent[batch_id] = batch
                    return batch
                self._filled.clear()
            await self._filled.wait()

    def acknowledged(self, batch_id: str) -> None:
        """The store has the batch."""
        batch = self._take(batch_id)
        if batch is not None:
            ACKNOWLEDGED.labels(batch.probe).inc(batch.rows)

    def refused(self, batch_id: str, reason: str, detail: str) -> None:
        """The store will never have the batch: it is let go, counted and logged."""
        batch = self._take(batch_id)
        if batch is not None:
            REFUSED.labels(batch.probe, reason).inc(batch.rows)
            log.error("batch refused by the server", probe=batch.probe, events=batch.rows, reason=reason, detail=detail)

    def disconnected(self) -> None:
        """What was sent and not acknowledged is to be sent again, marked as such, before the rest."""
        with self._lock:
            for batch in self._sent.values():
                batch.retry = True
            self._unsent = OrderedDict([*self._sent.items(), *self._unsent.items()])
            self._sent.clear()

    def waiting(self) -> tuple[int, int]:
        """How many batches and events wait for an acknowledgement."""
        with self._lock:
            batches = [*self._sent.values(), *self._unsent.values()]
        return len(batches), sum(batch.rows for batch in batches)

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._filled.set)

    def _take(self, batch_id: str) -> Batch | None:
        with self._lock:
            batch = self._sent.pop(batch_id, None)
            if batch is not None:
                self._bytes -= len(batch.arrow)
                WAITING.set(self._bytes)
        return batch
