"""Brings the store's tables to what the plugins' DDL says: creates them, adds columns; never drops or changes one."""

from collections.abc import Mapping

import structlog
from infrasight_core.errors import SchemaError, StoreError, StoreUnavailableError
from infrasight_core.plugin import ddl
from infrasight_core.plugin.schema import EventSchema

from infrasight_server.store.containers import add_columns, migrate_containers
from infrasight_server.store.store import Store

log = structlog.get_logger(__name__)


def migrate(
    store: Store, schemas: Mapping[str, EventSchema], ttl_days: int | None
) -> dict[str, str]:
    """Migrates the table of every probe, and before them that of the containers, which they have columns of.

    Args:
        store: An open store.
        schemas: The schemas by probe.
        ttl_days: After how many days rows are deleted; None keeps them for ever.

    Returns:
        Why a probe has no table that its events fit into, by probe; empty when all is well.

    Raises:
        StoreError: The store refuses the containers' table.
        StoreUnavailableError: The store does not answer.
    """
    migrate_containers(store)
    rejected = {}
    for probe, schema in schemas.items():
        try:
            migrate_table(store, probe, schema, ttl_days)
            own = frozenset(column.name for column in ddl.parse(schema.ddl_text()).columns)
            add_columns(store, f"{probe}_events", own)
        except StoreUnavailableError:
            raise
        except (SchemaError, StoreError) as error:
            rejected[probe] = str(error)
            log.error("probe rejected", probe=probe, reason=str(error))
    return rejected


def migrate_table(store: Store, probe: str, schema: EventSchema, ttl_days: int | None) -> None:
    """Migrates one probe's table.

    Raises:
        SchemaError: The DDL does not agree with the probe's message.
        StoreError: The table is there with another type for a column, or the store refuses the DDL.
        StoreUnavailableError: The store does not answer.
    """
    ddl.check(probe, schema)
    definition = ddl.parse(schema.ddl_text())
    there = store.columns(definition.name)
    if not there:
        store.command(schema.ddl_text())
        log.info("table created", table=definition.name)
    for before, column in zip((None, *definition.columns), definition.columns, strict=False):
        if not there:
            break
        if column.name not in there:
            place = f"AFTER `{before.name}`" if before else "FIRST"
            store.command(
                f"ALTER TABLE {definition.name} ADD COLUMN IF NOT EXISTS {column.definition} {place}"
            )
            log.info("column added", table=definition.name, column=column.name, type=column.type)
        elif ddl.canonical_type(there[column.name]) != column.type:
            raise StoreError(
                f"table {store.database}.{definition.name}: column {column.name} is {there[column.name]}, the probe's DDL says "
                f"{column.type}; a type is never changed by itself: alter the column, or move the table away"
            )
    store.set_ttl(definition.name, ttl_days)
