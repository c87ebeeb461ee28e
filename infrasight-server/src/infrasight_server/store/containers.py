"""Stores container updates, and adds the columns that show them to the probes' tables."""

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from importlib import resources

import pyarrow as pa
import structlog
from infrasight.v1.stream_pb2 import Batch
from infrasight_core.plugin.ddl import TableColumn, declared_columns

from infrasight_server import metrics
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.names import literal
from infrasight_server.store.upsert_writer import UpsertTable, UpsertWriter

log = structlog.get_logger(__name__)
_SQL = resources.files("infrasight_server") / "sql"
_TABLE = "containers"
_DICTIONARY = "containers_known"
_NAME_COLUMNS = ("name", "image", "pod_name", "pod_namespace", "pod_container")
_SCHEMA = pa.schema(
    [
        ("node", pa.string()),
        ("container_id", pa.string()),
        *((name, pa.binary()) for name in _NAME_COLUMNS),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("labels_cut", pa.bool_()),
        ("runtime", pa.string()),
        ("time", pa.timestamp("ns", "UTC")),
    ]
)


def migrate_containers(store: Store) -> None:
    """Creates the table of containers, and the dictionary through which queries read it.

    Raises:
        StoreError: The store rejects a statement.
        StoreUnavailableError: The store does not answer.
    """
    store.command(_sql("containers", store))
    store.command(_sql("containers_known", store))


def add_container_columns(store: Store, table: str, own_columns: Collection[str]) -> None:
    """Adds the container columns to a probe's table, or corrects outdated ones.

    A column of that name that the probe or an operator has declared stays.

    Args:
        store: An open store, migrated by `migrate_containers`.
        table: The probe's table.
        own_columns: The columns that the probe declares.

    Raises:
        StoreError: The store rejects a statement.
        StoreUnavailableError: The store does not answer.
    """
    existing = store.columns(table)
    expressions = store.aliases(table)
    for column in declared_columns(_sql("container_columns", store)):
        expression = expressions.get(column.name, "")
        if column.name in own_columns:
            log.info("the probe declares this column itself", table=table, column=column.name)
        elif column.name not in existing:
            store.command(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column.definition}")
        elif _DICTIONARY not in expression:
            log.warning(
                "the table has another column of this name; it stays",
                table=table,
                column=column.name,
            )
        elif expression != store.canonical(column.expression):
            _replace_column(store, table, column)


def _replace_column(store: Store, table: str, column: TableColumn) -> None:
    # After MODIFY COLUMN, ClickHouse no longer finds the elements of a tuple. An ALIAS column
    # has no data that DROP could lose.
    store.command(f"ALTER TABLE {table} DROP COLUMN {column.name}, ADD COLUMN {column.definition}")


def _sql(name: str, store: Store) -> str:
    sql = (_SQL / f"{name}.sql").read_text(encoding="utf-8")
    sql = sql.replace("{name}", store.database)
    sql = sql.replace("{database}", literal(store.database))
    sql = sql.replace("{user}", literal(store.user))
    return sql.replace("{password}", literal(store.password))


class ContainerTable:
    """Stores container updates; the newest update of each container wins.

    Args:
        store: The store.
        threads: Runs the inserts.
        linger_seconds: The shortest time between the beginnings of two inserts.
        create_tables: Called in a worker thread when the table is missing; raises StoreError.
    """

    def __init__(
        self,
        store: Store,
        threads: Executor,
        linger_seconds: float,
        create_tables: Callable[[], object],
    ) -> None:
        reload = f"SYSTEM RELOAD DICTIONARY {store.database}.{_DICTIONARY}"
        self.writer = UpsertWriter(
            store,
            threads,
            linger_seconds,
            {_TABLE: UpsertTable(_SCHEMA, version="time")},
            create_tables,
            after_insert=lambda: store.command(reload),
        )

    def upsert(self, node: str, batch: Batch) -> asyncio.Future[None]:
        """Queues the container updates of a batch, one at least.

        Returns:
            The future of their insert, done when the store has them; shield it.
        """
        for container in batch.containers:
            row = {name: getattr(container, name) for name in _NAME_COLUMNS}
            row["node"] = node
            row["container_id"] = container.container_id
            row["labels"] = list(container.labels.items())
            row["labels_cut"] = container.labels_cut
            row["runtime"] = container.runtime
            row["time"] = container.time.seconds * 10**9 + container.time.nanos
            stored = self.writer.put(_TABLE, (node, container.container_id), row)
        metrics.CONTAINERS_RECEIVED.inc(len(batch.containers))
        return stored
