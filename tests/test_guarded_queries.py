"""The guard accepts the queries of the commands, and every column of every table.

Those of documents and dashboards have tests with a server."""

from collections.abc import Iterator

import pytest
from infrasight_core.cli import missing_fields, verify
from infrasight_core.plugin.manager import PluginManager
from infrasight_server.query.guard import Guard
from infrasight_server.store.accounts import migrate_accounts
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate

QUERIES = [sql.format(seconds=60, conditions="") for sql in (verify._SQL, missing_fields.SQL)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An embedded store with the tables of all installed probes."""
    opened = Store.embedded(tmp_path_factory.mktemp("store"), "infrasight")
    migrate(opened, PluginManager.discover().schemas(), None)
    migrate_accounts(opened, None)
    yield opened
    opened.close()


def test_queries_of_commands_are_accepted(store: Store) -> None:
    """The store also runs them in the form that the guard returns."""
    guard = Guard(store)
    for query in QUERIES:
        list(store.query(guard.judge(query)))


def test_every_column_can_be_used(store: Store) -> None:
    """No column has the name of a function that a query may not use."""
    guard = Guard(store)
    for table in ("accounting", "accounts", "containers", "missing", "rejections"):
        guard.judge(f"SELECT {_expressions(store, table)} FROM {table}")
    for probe in PluginManager.discover().schemas():
        table = f"{probe}_events"
        statement = f"SELECT {_expressions(store, table)} FROM {table}"
        list(store.query(guard.judge(statement)))


def _expressions(store: Store, table: str) -> str:
    return ", ".join(f"toString({column})" for column in store.columns(table))
