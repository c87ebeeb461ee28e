"""Accounts and rejections: what the senders say became of their events, stored beside them before a batch is answered."""

import asyncio
from collections.abc import Collection
from importlib import resources
from typing import Any

import pyarrow as pa
from infrasight.v1.stream_pb2 import Account, Batch, Rejection, RejectionReason

from infrasight_server import metrics
from infrasight_server.store.store import Store
from infrasight_server.store.upsert_tables import UpsertTables

WINDOW_SECONDS = 60
_SQL = resources.files("infrasight_server") / "sql"
_NUMBERS = tuple(
    f.name for f in Account.DESCRIPTOR.fields if f.name not in ("run", "window", "ended")
)
_LOST = ("block_full", "heap_full", "decode_failed", "outbox_full")

_KEY = [
    ("node", pa.string()),
    ("probe", pa.string()),
    ("run", pa.string()),
    ("window", pa.uint32()),
    ("time", pa.uint32()),
]
_ACCOUNTS = pa.schema(
    [
        *_KEY,
        ("ended", pa.bool_()),
        *(
            (name, pa.int64() if name in ("waiting", "in_progress") else pa.uint64())
            for name in _NUMBERS
        ),
    ]
)
_REFUSALS = pa.schema(
    [
        *_KEY,
        ("batch_id", pa.string()),
        ("rows", pa.uint64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
SCHEMAS = {"accounts": _ACCOUNTS, "rejections": _REFUSALS}


def migrate_accounts(store: Store, ttl_days: int | None) -> None:
    """Creates the tables and the views, for which there must be a probe's table. Raises StoreError, StoreUnavailableError."""
    for table in SCHEMAS:
        store.command((_SQL / f"{table}.sql").read_text(encoding="utf-8"))
        store.set_ttl(table, ttl_days)
    for view in ("accounting", "missing"):
        sql = (_SQL / f"{view}.sql").read_text(encoding="utf-8")
        store.command(
            sql.replace("{database}", store.literal(store.database)).replace(
                "{name}", store.database
            )
        )


class Accounts:
    """Takes accounts and rejections; of several accounts of one window only the newest.

    Args:
        tables: What writes them; of the schemas `SCHEMAS`.
        probes: The probes that may be a label in the metrics.
    """

    def __init__(self, tables: UpsertTables, probes: Collection[str]) -> None:
        self._tables, self._probes = tables, probes
        self._counted: dict[
            tuple[str, str], Account
        ] = {}  # the last account of each node and probe

    async def record(self, node: str, batch: Batch, rejection: Rejection | None = None) -> None:
        """Returns when the store has the batch's account, and its rejection if it is rejected."""
        if not batch.HasField("account") and rejection is None:
            return
        if batch.HasField("account"):
            self._add(node, batch.probe, batch.account)
        if rejection is not None:
            run, window, *_ = (*batch.batch_id.split("-"), "", "")
            row = _row(node, batch.probe, run, int(window) if window.isdecimal() else 0)
            reason = (
                RejectionReason.Name(rejection.reason).removeprefix("REJECTION_REASON_").lower()
            )
            row |= {
                "batch_id": batch.batch_id,
                "rows": batch.rows,
                "reason": reason,
                "detail": rejection.detail,
            }
            self._tables.put("rejections", (node, batch.probe, batch.batch_id), row)
        await asyncio.shield(self._tables.stored())  # others wait for it too

    def _add(self, node: str, probe: str, account: Account) -> None:
        row = _row(node, probe, account.run, account.window) | {"ended": account.ended}
        row |= {name: getattr(account, name) for name in _NUMBERS}
        key = (node, probe, account.run, str(account.window))
        if (waiting := self._tables.waiting("accounts", key)) is None or waiting[
            "number"
        ] <= account.number:
            self._tables.put("accounts", key, row)
        self._count(node, probe, account)

    def _count(self, node: str, probe: str, account: Account) -> None:
        """What was lost since the account before, for the metrics; the tables hold the truth."""
        before = self._counted.get((node, probe))
        same = before is not None and (before.run, before.window) == (account.run, account.window)
        if same and before is not None and before.number >= account.number:
            return
        for reason in _LOST:
            lost = getattr(account, reason) - (getattr(before, reason) if same else 0)
            metrics.EVENTS_DROPPED.labels(
                probe if probe in self._probes else "unknown", reason
            ).inc(lost)
        self._counted[node, probe] = account


def _row(node: str, probe: str, run: str, window: int) -> dict[str, Any]:
    return {
        "node": node,
        "probe": probe,
        "run": run,
        "window": window,
        "time": window * WINDOW_SECONDS,
    }
