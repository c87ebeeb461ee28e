"""Migrates the tables of probes: creates them, adds columns and indexes, never changes those."""

import re
from collections.abc import Mapping
from importlib import resources

import structlog
from infrasight_core.errors import SchemaError, StoreError, StoreUnavailableError
from infrasight_core.plugin.ddl import TableDefinition, canonical_type, define_table
from infrasight_core.plugin.schema import EventSchema

from infrasight_server.store.clickhouse import Store
from infrasight_server.store.containers import add_container_columns, migrate_containers
from infrasight_server.store.ttl import Ttl, expiry

log = structlog.get_logger(__name__)
_SQL = resources.files("infrasight_server") / "sql"


def migrate(store: Store, schemas: Mapping[str, EventSchema], ttl: Ttl | None) -> dict[str, str]:
    """Migrates the tables of claims and containers, then that of every probe, which refers to it.

    Args:
        store: An open store.
        schemas: The schemas by probe.
        ttl: When rows are deleted; None: never.

    Returns:
        The probes whose tables cannot be used, each with the reason; empty when all can.

    Raises:
        StoreError: The store rejects the table of containers.
        StoreUnavailableError: The store does not answer.
    """
    if store.is_shared:
        store.command((_SQL / "claims.sql").read_text(encoding="utf-8"))
        store.running_inserts("claims")  # needs a right, without which no insert could begin
    migrate_containers(store)
    rejected = {}
    for probe, schema in schemas.items():
        try:
            table = define_table(probe, schema)
            migrate_table(store, table, None if ttl is None else ttl.of(probe))
            add_container_columns(store, table.name, table.own_columns)
        except StoreUnavailableError:
            raise
        except (SchemaError, StoreError) as error:
            rejected[probe] = str(error)
            log.error("probe rejected", probe=probe, reason=str(error))
    return rejected


def migrate_table(store: Store, table: TableDefinition, ttl_days: int | None) -> None:
    """Creates a probe's table, or adds the columns and indexes that it lacks, and sets its TTL.

    Args:
        store: An open store.
        table: The table.
        ttl_days: After how many days its rows are deleted; None: never.

    Raises:
        StoreError: The table exists with another type for a column, or the store rejects the DDL.
        StoreUnavailableError: The store does not answer.
    """
    existing_types = store.columns(table.name)
    if existing_types:
        _add_missing_columns(store, table, existing_types)
        _add_missing_indexes(store, table)
    else:
        store.command(table.statement)
        log.info("table created", table=table.name)
    store.set_ttl(table.name, "" if ttl_days is None else expiry(ttl_days))


def _add_missing_columns(
    store: Store, table: TableDefinition, existing_types: Mapping[str, str]
) -> None:
    place = "FIRST"
    for column in table.columns:
        existing_type = existing_types.get(column.name)
        if existing_type is None:
            store.command(
                f"ALTER TABLE {table.name} ADD COLUMN IF NOT EXISTS {column.definition} {place}"
            )
            log.info("column added", table=table.name, column=column.name, type=column.type)
        elif canonical_type(existing_type) != column.type:
            raise StoreError(
                f"table {store.database}.{table.name}: column {column.name} is {existing_type}, "
                f"the probe's DDL declares {column.type}; the server changes no types: "
                "alter the column, or rename the table"
            )
        place = f"AFTER `{column.name}`"


def _add_missing_indexes(store: Store, table: TableDefinition) -> None:
    existing = store.create_statement(table.name)
    for index in table.indexes:
        if re.search(rf"\bINDEX `?{re.escape(index.name)}`? ", existing):
            continue
        store.command(f"ALTER TABLE {table.name} ADD INDEX IF NOT EXISTS {index.definition}")
        # The store writes the index for the existing rows in the background.
        store.command(f"ALTER TABLE {table.name} MATERIALIZE INDEX {index.name}")
        log.info("index added", table=table.name, index=index.name)
