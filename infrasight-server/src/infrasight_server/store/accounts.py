"""Stores accounts and rejections: what each agent saw, dropped and sent, and what was rejected."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from importlib import resources
from typing import Any

import pyarrow as pa
from infrasight.v1.stream_pb2 import Account, Batch, Rejection
from infrasight_core.net.rejection_reason import reason_name

from infrasight_server import metrics
from infrasight_server.limits import COUNTS, BatchLimits, find_decrease, window_of
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.names import literal
from infrasight_server.store.ttl import Ttl
from infrasight_server.store.upsert_writer import UpsertTable, UpsertWriter

WINDOW_SECONDS = 60
_SQL = resources.files("infrasight_server") / "sql"
_VIEWS = ("accounting", "missing")
_SIGNED_COUNTS = ("waiting", "in_progress")
_REMEMBERED_WINDOWS = 60  # of each probe of a node; older ones no longer change
_REMEMBERED_PROBES = 10_000  # over all nodes
_DROP_REASONS = ("block_full", "heap_full", "decode_failed", "outbox_full")

_KEY_COLUMNS = [
    ("node", pa.string()),
    ("probe", pa.string()),
    ("run", pa.string()),
    ("window", pa.uint32()),
    ("time", pa.uint32()),
]
_ACCOUNT_COLUMNS = [
    ("ended", pa.bool_()),
    *((name, pa.int64() if name in _SIGNED_COUNTS else pa.uint64()) for name in COUNTS),
]
_REJECTION_COLUMNS = [
    ("batch_id", pa.string()),
    ("rows", pa.uint64()),
    ("reason", pa.string()),
    ("detail", pa.string()),
]
TABLES = {
    "accounts": UpsertTable(pa.schema([*_KEY_COLUMNS, *_ACCOUNT_COLUMNS]), version="number"),
    "rejections": UpsertTable(pa.schema([*_KEY_COLUMNS, *_REJECTION_COLUMNS])),
}


def migrate_accounts(store: Store, ttl: Ttl | None) -> None:
    """Creates the tables `accounts`, `rejections` and `deletions`, and the views over them.

    The views read the probes' tables, of which there must be one at least.

    Args:
        store: An open store.
        ttl: When rows are deleted; None: never.

    Raises:
        StoreError: The store rejects a statement.
        StoreUnavailableError: The store does not answer.
    """
    ttl = ttl or Ttl()
    for table in (*TABLES, "deletions"):
        store.command((_SQL / f"{table}.sql").read_text(encoding="utf-8"))
        store.set_ttl(table, ttl.accounts_clause())
    for view in _VIEWS:
        sql = (_SQL / f"{view}.sql").read_text(encoding="utf-8")
        sql = sql.replace("{database}", literal(store.database))
        sql = sql.replace("{expired}", ttl.expired_condition())
        store.command(sql.replace("{name}", store.database))


class AccountTables:
    """Records the accounts of agents and the batches that the server rejects.

    Args:
        writer: Writes the tables `TABLES`.
        probes: The probes that may be a label of the metrics.
        limits: Bounds the windows.
    """

    def __init__(self, writer: UpsertWriter, probes: Collection[str], limits: BatchLimits) -> None:
        self._writer = writer
        self._probes = probes
        self._limits = limits
        # By node and probe, then by run and window.
        self._last_accounts: OrderedDict[tuple[str, str], dict[tuple[str, int], Account]] = (
            OrderedDict()
        )

    def find_decrease(self, node: str, batch: Batch) -> str:
        """Returns which count of a batch's account became smaller; "" if none did."""
        account = batch.account
        accounts = self._last_accounts.get((node, batch.probe), {})
        previous = accounts.get((account.run, account.window))
        if previous is None or previous.number >= account.number:
            return ""
        return find_decrease(previous, account)

    async def record(self, node: str, batch: Batch, rejection: Rejection | None = None) -> None:
        """Waits until the store has the batch's account and its rejection, if there is one.

        Args:
            node: The node that sent it.
            batch: The batch, with an account only if that is valid.
            rejection: Why the server rejects it; None if it is stored.
        """
        inserts = []
        if batch.HasField("account"):
            inserts.append(self._put_account(node, batch.probe, batch.account))
        if rejection is not None:
            inserts.append(self._put_rejection(node, batch, rejection))
        for insert in inserts:
            await asyncio.shield(insert)

    def _put_account(self, node: str, probe: str, account: Account) -> asyncio.Future[None]:
        self._count_drops(node, probe, account)
        row = _key_columns(node, probe, account.run, account.window)
        row["ended"] = account.ended
        for name in COUNTS:
            row[name] = getattr(account, name)
        return self._writer.put("accounts", (node, probe, account.run, str(account.window)), row)

    def _put_rejection(self, node: str, batch: Batch, rejection: Rejection) -> asyncio.Future[None]:
        run = batch.batch_id.partition("-")[0]
        window = window_of(batch.batch_id, self._limits.accepted_seconds())
        row = _key_columns(node, batch.probe, run, window)
        row["batch_id"] = batch.batch_id
        row["rows"] = batch.rows
        row["reason"] = reason_name(rejection.reason)
        row["detail"] = rejection.detail
        return self._writer.put("rejections", (node, batch.probe, batch.batch_id), row)

    def _count_drops(self, node: str, probe: str, account: Account) -> None:
        """Adds what the agent dropped since the window's account before to the metrics.

        Accounts of several windows may alternate: the outbox drops batches of earlier windows.
        """
        accounts = self._last_accounts.setdefault((node, probe), {})
        self._last_accounts.move_to_end((node, probe))
        if len(self._last_accounts) > _REMEMBERED_PROBES:
            self._last_accounts.popitem(last=False)
        window = (account.run, account.window)
        previous = accounts.get(window)
        if previous is not None and previous.number >= account.number:
            return
        label = probe if probe in self._probes else "unknown"
        for reason in _DROP_REASONS:
            counted = 0 if previous is None else getattr(previous, reason)
            dropped = getattr(account, reason) - counted
            metrics.EVENTS_DROPPED.labels(label, reason).inc(dropped)
        accounts[window] = account
        if len(accounts) > _REMEMBERED_WINDOWS:
            del accounts[next(iter(accounts))]


def _key_columns(node: str, probe: str, run: str, window: int) -> dict[str, Any]:
    return {
        "node": node,
        "probe": probe,
        "run": run,
        "window": window,
        "time": window * WINDOW_SECONDS,
    }
