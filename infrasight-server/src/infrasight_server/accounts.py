"""Accounts and refusals: what the senders say became of their events, stored beside them before a batch is answered."""

import asyncio
import math
import time
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import Executor
from importlib import resources
from typing import Any

import pyarrow as pa
import structlog
from infrasight.v1.stream_pb2 import Account, Batch, Refusal, RefusalReason
from infrasight_core.errors import StoreAwayError, StoreError

from infrasight_server import metrics
from infrasight_server.store import Store

log = structlog.get_logger(__name__)
WINDOW_SECONDS = 60
_SQL = resources.files("infrasight_server") / "sql"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_NUMBERS = tuple(f.name for f in Account.DESCRIPTOR.fields if f.name not in ("run", "window", "ended"))
_LOST = ("block_full", "heap_full", "decode_failed", "outbox_full")

_KEY = [("node", pa.string()), ("probe", pa.string()), ("run", pa.string()), ("window", pa.uint32()), ("time", pa.uint32())]
_ACCOUNTS = pa.schema(
    [
        *_KEY,
        ("ended", pa.bool_()),
        *((name, pa.int64() if name in ("waiting", "under_way") else pa.uint64()) for name in _NUMBERS),
    ]
)
_REFUSALS = pa.schema(
    [*_KEY, ("batch_id", pa.string()), ("rows", pa.uint64()), ("reason", pa.string()), ("detail", pa.string())]
)
_Key = tuple[str, ...]


def migrate_accounts(store: Store, ttl_days: int | None) -> None:
    """Creates the tables and, where there is a probe's table, the view. Raises StoreError, StoreAwayError."""
    for table in ("accounts", "refusals"):
        store.command((_SQL / f"{table}.sql").read_text(encoding="utf-8"))
        store.set_ttl(table, ttl_days)
    store.command((_SQL / "accounting.sql").read_text(encoding="utf-8").replace("{database}", store.literal(store.database)))


class Accounts:
    """Writes accounts and refusals, some at a time; of several accounts of one window only the newest.

    Args:
        store: Where they go.
        threads: What runs the inserts.
        linger_seconds: The least time between two inserts.
        probes: The probes that may be a label in the metrics.
    """

    def __init__(self, store: Store, threads: Executor, linger_seconds: float, probes: Collection[str]) -> None:
        self._store, self._threads, self._linger_seconds, self._probes = store, threads, linger_seconds, probes
        self._accounts: dict[_Key, dict[str, Any]] = {}
        self._refusals: dict[_Key, dict[str, Any]] = {}
        self._stored: asyncio.Future[None] | None = None  # of what waits now
        self._changed, self._closing = asyncio.Event(), asyncio.Event()
        self._counted: dict[tuple[str, str], Account] = {}  # the last account of each node and probe

    async def record(self, node: str, batch: Batch, refusal: Refusal | None = None) -> None:
        """Returns when the store has the batch's account, and its refusal if it is refused."""
        if not batch.HasField("account") and refusal is None:
            return
        if batch.HasField("account"):
            self._add(node, batch.probe, batch.account)
        if refusal is not None:
            run, window, *_ = (*batch.batch_id.split("-"), "", "")
            row = _row(node, batch.probe, run, int(window) if window.isdecimal() else 0)
            reason = RefusalReason.Name(refusal.reason).removeprefix("REFUSAL_REASON_").lower()
            row |= {"batch_id": batch.batch_id, "rows": batch.rows, "reason": reason, "detail": refusal.detail}
            self._refusals[node, batch.probe, batch.batch_id] = row
        if self._stored is None:
            self._stored = asyncio.get_running_loop().create_future()
        self._changed.set()
        await asyncio.shield(self._stored)  # others wait for it too

    def close(self) -> None:
        """Lets `run` return as soon as everything is stored."""
        self._closing.set()
        self._changed.set()

    async def run(self) -> None:
        """Inserts what is recorded until `close`."""
        last = -math.inf
        while not self._closing.is_set() or self._stored is not None:
            await self._changed.wait()
            self._changed.clear()
            await self._wait(last + self._linger_seconds - time.monotonic())
            last = time.monotonic()
            stored, self._stored = self._stored, None
            if stored is not None:
                await self._insert(self._accounts, self._refusals)
                stored.set_result(None)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), max(seconds, 0))
        except TimeoutError:
            return

    def _add(self, node: str, probe: str, account: Account) -> None:
        row = _row(node, probe, account.run, account.window) | {"ended": account.ended}
        row |= {name: getattr(account, name) for name in _NUMBERS}
        key = (node, probe, account.run, str(account.window))
        if (waiting := self._accounts.get(key)) is None or waiting["number"] <= account.number:
            self._accounts[key] = row
        self._count(node, probe, account)

    def _count(self, node: str, probe: str, account: Account) -> None:
        """What was lost since the account before, for the metrics; the tables hold the truth."""
        before = self._counted.get((node, probe))
        same = before is not None and (before.run, before.window) == (account.run, account.window)
        if same and before is not None and before.number >= account.number:
            return
        for reason in _LOST:
            lost = getattr(account, reason) - (getattr(before, reason) if same else 0)
            metrics.EVENTS_DROPPED.labels(probe if probe in self._probes else "unknown", reason).inc(lost)
        self._counted[node, probe] = account

    async def _insert(self, accounts: Mapping[_Key, dict[str, Any]], refusals: Mapping[_Key, dict[str, Any]]) -> None:
        self._accounts, self._refusals = {}, {}
        for table, rows, schema in (("accounts", accounts, _ACCOUNTS), ("refusals", refusals, _REFUSALS)):
            if rows:
                await self._insert_table(table, pa.Table.from_pylist(list(rows.values()), schema))

    async def _insert_table(self, table: str, rows: pa.Table) -> None:
        """Inserts however long the store is away; again does no harm, as the tables keep the newest of each key."""
        pause = _FIRST_PAUSE
        while True:
            try:
                run = asyncio.get_running_loop().run_in_executor
                await run(self._threads, self._store.insert, table, rows, uuid.uuid4().hex)
                return
            except StoreAwayError as error:
                metrics.INSERT_RETRIES.labels(table).inc()
                log.warning("store is away; the insert is tried again", table=table, reason=str(error), pause=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except StoreError as error:
                log.error("accounts lost: the store rejects them", table=table, rows=rows.num_rows, reason=str(error))
                return


def _row(node: str, probe: str, run: str, window: int) -> dict[str, Any]:
    return {"node": node, "probe": probe, "run": run, "window": window, "time": window * WINDOW_SECONDS}
