"""What agents tell of containers: checked, stored, and made columns of every event's table."""

import asyncio
from concurrent.futures import Executor
from importlib import resources

import pyarrow as pa
import structlog
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_MALFORMED,
    REJECTION_REASON_TOO_LARGE,
    Batch,
    Rejection,
)
from infrasight_core.containers.bounds import fault

from infrasight_server import metrics
from infrasight_server.store.store import Store
from infrasight_server.store.upsert_tables import UpsertTables

log = structlog.get_logger(__name__)
COLUMNS = ("labels", "container")
"""The columns that every probe's table has of them, unless the probe has its own of that name."""
_SQL = resources.files("infrasight_server") / "sql"
_NAMES = ("name", "image", "pod_name", "pod_namespace", "pod_container")
_SCHEMA = pa.schema(
    [
        ("node", pa.string()),
        ("container_id", pa.string()),
        *((name, pa.binary()) for name in _NAMES),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("labels_cut", pa.bool_()),
        ("runtime", pa.string()),
        ("time", pa.timestamp("ns", "UTC")),
    ]
)


def migrate_containers(store: Store) -> None:
    """Creates the table, and the dictionary through which queries see it. Raises StoreError, StoreUnavailableError."""
    store.command((_SQL / "containers.sql").read_text(encoding="utf-8"))
    sql = (
        (_SQL / "containers_known.sql")
        .read_text(encoding="utf-8")
        .replace("{name}", store.database)
    )
    for key, value in (
        ("database", store.database),
        ("user", store.user),
        ("password", store.password),
    ):
        sql = sql.replace(f"{{{key}}}", store.literal(value))
    store.command(sql)


def add_columns(store: Store, table: str, own: frozenset[str]) -> None:
    """Gives an events' table the columns of its containers, or brings them up to date.

    Args:
        store: An open store; it has been through `migrate_containers`.
        table: The table.
        own: Columns of the probe's own, which stay what they are, as those do that an operator has added.

    Raises:
        StoreError: The store refuses.
        StoreUnavailableError: It does not answer.
    """
    there, aliases = store.columns(table), store.aliases(table)
    for column in COLUMNS:
        sql = (_SQL / f"column_{column}.sql").read_text(encoding="utf-8")
        sql = sql.replace("{table}", table).replace("{name}", store.database)
        if column in own:
            log.info(
                "the probe's own column stands in place of the container's",
                table=table,
                column=column,
            )
        elif column not in there:
            store.command(sql.replace("{verb}", "ADD COLUMN IF NOT EXISTS"))
        elif "containers_known" not in aliases.get(column, ""):
            log.warning(
                "somebody's column stands in place of the container's; it stays",
                table=table,
                column=column,
            )
        elif aliases[column] != store.canonical(sql.partition(" ALIAS ")[2]):
            # Not MODIFY, after which ClickHouse no longer finds the members of a tuple. Nothing of it is stored.
            store.command(sql.replace("{verb}", f"DROP COLUMN {column}, ADD COLUMN"))


class Containers:
    """Takes news of containers; of several of one container the newest.

    Args:
        store: Where they go.
        threads: What runs the inserts.
        linger_seconds: The least time between two inserts.
        max_batch_bytes: The longest batch.
    """

    def __init__(
        self, store: Store, threads: Executor, linger_seconds: float, max_batch_bytes: int
    ) -> None:
        self._max_batch_bytes = max_batch_bytes
        reload = f"SYSTEM RELOAD DICTIONARY {store.database}.containers_known"
        self.tables = UpsertTables(
            store, threads, linger_seconds, {"containers": _SCHEMA}, lambda: store.command(reload)
        )

    def rejected(self, batch: Batch) -> Rejection | None:
        """Why a batch that has containers is not taken; None where it is."""
        if (size := batch.ByteSize()) > self._max_batch_bytes:
            detail = f"{size} bytes, at most {self._max_batch_bytes} are taken; send fewer containers at once"
            return Rejection(
                batch_id=batch.batch_id,
                reason=REJECTION_REASON_TOO_LARGE,
                detail=f"containers: {detail}",
            )
        if not batch.batch_id:
            wrong = "it has no batch_id"
        elif batch.rows or batch.WhichOneof("body") or batch.HasField("account"):
            wrong = "containers come in batches of their own, without rows or an account"
        else:
            wrong = next((said for said in map(fault, batch.containers) if said), "")
        detail = f"batch {batch.batch_id!r} of containers: {wrong}"
        return (
            Rejection(batch_id=batch.batch_id, reason=REJECTION_REASON_MALFORMED, detail=detail)
            if wrong
            else None
        )

    def put(self, node: str, batch: Batch) -> asyncio.Future[bool]:
        """Takes a batch that is not rejected. The future is done when the store has it; others wait for it too."""
        for said in batch.containers:
            key, time = (node, said.container_id), said.time.seconds * 10**9 + said.time.nanos
            before = self.tables.waiting("containers", key)
            if before is None or before["time"] <= time:
                row = {name: getattr(said, name) for name in (*_NAMES, "labels_cut", "runtime")}
                row |= {
                    "node": node,
                    "container_id": said.container_id,
                    "labels": list(said.labels.items()),
                    "time": time,
                }
                self.tables.put("containers", key, row)
        metrics.CONTAINERS_RECEIVED.inc(len(batch.containers))
        return self.tables.stored()
