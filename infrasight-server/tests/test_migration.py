"""Tables follow the plugins' DDL: columns and indexes are added, none is dropped or changed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from infrasight_core.errors import StoreError
from infrasight_core.plugin.ddl import canonical_type, define_table
from infrasight_core.plugin.schema import EventSchema
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent
from infrasight_server.store.accounts import migrate_accounts
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate, migrate_table
from infrasight_server.store.ttl import Ttl
from infrasight_testbed.execve_batches import SCHEMA

EXECVE = define_table("execve", SCHEMA)
EXPECTED = Path(__file__).parent / "execve_events.expected.sql"


def table_from_messages(store: Store, table: str) -> list[tuple[str, str]]:
    """Returns the names and canonical types of a table's columns."""
    return [(name, canonical_type(type_)) for name, type_ in store.columns(table).items()]


def create_without(store: Store, *columns: str) -> None:
    """Creates execve's table as an older version could have: without some columns."""
    lines = [
        f"`{column.name}` {column.definition.removeprefix(column.name)}"
        for column in EXECVE.columns
        if column.name not in columns
    ]
    store.command(
        f"CREATE TABLE execve_events ({', '.join(lines)}) ENGINE = MergeTree ORDER BY node"
    )


def test_created_table_is_exactly_the_expected_one(store: Store) -> None:
    """SHOW CREATE TABLE equals the committed text: columns, codecs, index, order, settings."""
    migrate_table(store, EXECVE, None)
    statement = store.create_statement("execve_events").replace("\\n", "\n")
    database = f"CREATE TABLE {store.database}."
    assert statement.replace(database, "CREATE TABLE ") == EXPECTED.read_text().rstrip("\n")


def test_second_migration_changes_nothing(store: Store) -> None:
    """All columns exist in order with their types; a second migration changes nothing."""
    migrate_table(store, EXECVE, None)
    created = store.create_statement("execve_events")
    assert table_from_messages(store, "execve_events") == [(c.name, c.type) for c in EXECVE.columns]
    migrate_table(store, EXECVE, None)
    assert store.create_statement("execve_events") == created


def test_missing_columns_are_added_in_their_places(store: Store) -> None:
    """An older table gets the columns that it lacks in their places, and keeps its rows."""
    create_without(store, "time", "user", "cwd", "at_flags", "command")
    store.command("INSERT INTO execve_events (node, pid) VALUES ('old', 7)")
    migrate_table(store, EXECVE, None)
    assert list(store.columns("execve_events")) == [c.name for c in EXECVE.columns]
    rows = list(store.query("SELECT pid, user, command FROM execve_events"))[-1]
    assert rows.to_pylist() == [{"pid": 7, "user": b"", "command": b""}]


def test_missing_indexes_are_added(store: Store) -> None:
    """An older table gets the indexes that it lacks, and another migration changes nothing."""
    create_without(store)
    store.command("ALTER TABLE execve_events ADD INDEX ours pid TYPE minmax GRANULARITY 1")
    assert "INDEX window" not in store.create_statement("execve_events")
    migrate_table(store, EXECVE, None)
    migrated = store.create_statement("execve_events")
    for index in ("ours pid TYPE minmax", *re.findall(r"INDEX (.*?),?\n", EXPECTED.read_text())):
        assert f"INDEX {index}" in migrated
    migrate_table(store, EXECVE, None)
    assert store.create_statement("execve_events") == migrated


def test_migration_leaves_an_additional_column_alone(store: Store) -> None:
    """A column of a newer version, or one that an operator added, stays."""
    migrate_table(store, EXECVE, None)
    store.command("ALTER TABLE execve_events ADD COLUMN ours String")
    migrate_table(store, EXECVE, None)
    assert store.columns("execve_events")["ours"] == "String"


def test_column_of_another_type_is_a_conflict(store: Store) -> None:
    """The error names table, column and both types, and the table stays as it is."""
    create_without(store, "pid")
    store.command("ALTER TABLE execve_events ADD COLUMN pid String AFTER node")
    with pytest.raises(
        StoreError,
        match=r"table \w+\.execve_events: column pid is String, the probe's DDL declares UInt32",
    ):
        migrate_table(store, EXECVE, None)
    assert store.columns("execve_events")["pid"] == "String"


def test_rejected_probe_does_not_affect_the_others(store: Store, tmp_path: Path) -> None:
    """A probe whose DDL does not match its message is rejected; the next gets its table."""
    file = tmp_path / "broken_events.sql"
    file.write_text("CREATE TABLE IF NOT EXISTS broken_events (filename String)")
    rejected = migrate(store, {"broken": EventSchema(ExecveEvent, file), "execve": SCHEMA}, None)
    assert list(rejected) == ["broken"]
    assert "column argv is missing" in rejected["broken"]
    assert store.columns("execve_events")
    assert not store.columns("broken_events")


def test_ddl_that_clickhouse_rejects_is_reported_for_its_probe(
    store: Store, tmp_path: Path
) -> None:
    """DDL that is well formed but meaningless to ClickHouse is rejected with ClickHouse's words."""
    file = tmp_path / "execve_events.sql"
    file.write_text(f"{SCHEMA.ddl_text()} ENGINE = NoSuchMergeTree")
    rejected = migrate(store, {"execve": EventSchema(ExecveEvent, file)}, None)
    assert "NoSuchMergeTree" in rejected["execve"]


def test_probe_without_its_sql_file_is_rejected(store: Store, tmp_path: Path) -> None:
    """The reason names the probe and the file."""
    missing = EventSchema(ExecveEvent, tmp_path / "none.sql")
    rejected = migrate(store, {"execve": missing}, None)
    assert "execve: DDL" in rejected["execve"]
    assert "none.sql" in rejected["execve"]


def test_ttl_follows_the_setting(store: Store) -> None:
    """A number of days sets the table's TTL, another number changes it, None removes it."""
    migrate_table(store, EXECVE, 30)
    assert "toIntervalDay(30)" in store.create_statement("execve_events")
    migrate_table(store, EXECVE, 7)
    assert "toIntervalDay(7)" in store.create_statement("execve_events")
    migrate_table(store, EXECVE, None)
    assert "TTL toDateTime" not in store.create_statement("execve_events")


def test_probe_can_have_its_own_ttl(store: Store) -> None:
    """Its table and its accounts have it, the others have the general one."""
    schemas = {"execve": SCHEMA}
    assert migrate(store, schemas, Ttl(30, {"execve": 7})) == {}
    migrate_accounts(store, Ttl(30, {"execve": 7}))
    assert "toIntervalDay(7)" in store.create_statement("execve_events")
    accounts = store.create_statement("accounts").replace("\\'", "'")
    assert "toIntervalDay(7) WHERE probe = 'execve'" in accounts
    assert "toIntervalDay(30) WHERE probe NOT IN ('execve')" in accounts
    assert migrate(store, schemas, Ttl(30)) == {}
    migrate_accounts(store, Ttl(None, {"open": 7}))
    assert "toIntervalDay(30)" in store.create_statement("execve_events")
    assert "toIntervalDay(30)" not in store.create_statement("accounts")


def test_probes_own_clauses_replace_the_defaults(store: Store, tmp_path: Path) -> None:
    """The probe's engine, order, index and setting reach ClickHouse; other defaults stay."""
    file = tmp_path / "execve_events.sql"
    own = SCHEMA.ddl_text().rstrip().removesuffix(")")
    file.write_text(
        f"{own}, INDEX names filename TYPE bloom_filter GRANULARITY 2)\n"
        "ENGINE = ReplacingMergeTree ORDER BY (node, filename) SETTINGS index_granularity = 1024"
    )
    migrate_table(store, define_table("execve", EventSchema(ExecveEvent, file)), None)
    statement = store.create_statement("execve_events")
    for clause in (
        "INDEX batch_id batch_id TYPE bloom_filter GRANULARITY 4",
        "INDEX names filename TYPE bloom_filter GRANULARITY 2",
        "ENGINE = ReplacingMergeTree",
        "PARTITION BY toDate(time)",
        "ORDER BY (node, filename)",
        "ttl_only_drop_parts = 1",
        "index_granularity = 1024",
    ):
        assert clause in statement


def test_printed_statement_runs_as_it_is(store: Store) -> None:
    """ClickHouse accepts the output of `infrasight probes --ddl`; nothing is left to migrate."""
    command = [str(Path(sys.executable).with_name("infrasight")), "probes", "--ddl", "execve"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    store.command(printed)
    created = store.create_statement("execve_events")
    migrate_table(store, EXECVE, None)
    assert store.create_statement("execve_events") == created
