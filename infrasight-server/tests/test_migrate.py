"""Tables follow the plugins' DDL: columns are added, nothing is ever dropped or changed."""

from pathlib import Path

import pytest
from infrasight_core.errors import SchemaError, StoreError
from infrasight_core.plugin import ddl
from infrasight_core.plugin.schema import EventSchema
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent
from infrasight_server.store.migration import migrate, migrate_table
from infrasight_server.store.store import Store
from infrasight_testbed.execve_batches import SCHEMA


def without(*columns: str) -> str:
    """The DDL of execve's table as an older version could have been: some columns fewer."""
    lines = SCHEMA.ddl_text().splitlines()
    return "\n".join(
        line for line in lines if not line.split()[:1] or line.split()[0] not in columns
    )


def test_a_new_table_is_what_the_ddl_says(store: Store) -> None:
    """All columns are there, in order and with their types; a second migration changes nothing."""
    migrate_table(store, "execve", SCHEMA, None)
    created = store.create_statement("execve_events")
    definition = ddl.parse(SCHEMA.ddl_text())
    assert [(n, ddl.canonical_type(t)) for n, t in store.columns("execve_events").items()] == [
        (c.name, c.type) for c in definition.columns
    ]
    migrate_table(store, "execve", SCHEMA, None)
    assert store.create_statement("execve_events") == created


def test_missing_columns_are_added_where_they_belong(store: Store) -> None:
    """An older table gets the columns that it lacks in their places, and keeps its rows."""
    store.command(
        without("time", "user", "cwd", "at_flags", "command", "PARTITION").replace(
            "(node, time)", "node"
        )
    )
    store.command("INSERT INTO execve_events (node, pid) VALUES ('old', 7)")
    migrate_table(store, "execve", SCHEMA, None)
    assert list(store.columns("execve_events")) == [
        c.name for c in ddl.parse(SCHEMA.ddl_text()).columns
    ]
    rows = list(store.query("SELECT pid, user, command FROM execve_events"))[-1]
    assert rows.to_pylist() == [{"pid": 7, "user": b"", "command": b""}]


def test_a_column_that_only_the_table_has_stays(store: Store) -> None:
    """A newer table, or an operator's own column, is left as it is."""
    migrate_table(store, "execve", SCHEMA, None)
    store.command("ALTER TABLE execve_events ADD COLUMN ours String")
    migrate_table(store, "execve", SCHEMA, None)
    assert store.columns("execve_events")["ours"] == "String"


def test_another_type_is_a_conflict(store: Store) -> None:
    """A column of another type is rejected, naming table, column and both types, and the table is not touched."""
    store.command(
        SCHEMA.ddl_text().replace(
            "pid                     UInt32 CODEC(T64, ZSTD(1))", "pid String", 1
        )
    )
    with pytest.raises(
        StoreError,
        match=r"table \w+\.execve_events: column pid is String, the probe's DDL says UInt32",
    ):
        migrate_table(store, "execve", SCHEMA, None)
    assert store.columns("execve_events")["pid"] == "String"


def test_one_refused_probe_does_not_hurt_the_others(store: Store, tmp_path: Path) -> None:
    """A probe whose DDL does not agree with its message is rejected by name; the next probe gets its table."""
    wrong = tmp_path / "wrong.sql"
    wrong.write_text(without("pid").replace("execve_events", "broken_events"))
    rejected = migrate(store, {"broken": EventSchema(ExecveEvent, wrong), "execve": SCHEMA}, None)
    assert list(rejected) == ["broken"]
    assert "column pid is missing" in rejected["broken"]
    assert store.columns("execve_events")
    assert not store.columns("broken_events")


def test_ddl_that_the_store_refuses_is_that_probes_failure(store: Store, tmp_path: Path) -> None:
    """DDL that is well formed but nonsense to ClickHouse is a StoreError with ClickHouse's words."""
    wrong = tmp_path / "wrong.sql"
    wrong.write_text(SCHEMA.ddl_text().replace("MergeTree", "NoSuchTree"))
    assert (
        "NoSuchTree" in migrate(store, {"execve": EventSchema(ExecveEvent, wrong)}, None)["execve"]
    )


def test_a_missing_ddl_is_a_schema_error(store: Store, tmp_path: Path) -> None:
    """A probe without its .sql file is named."""
    with pytest.raises(SchemaError, match="execve: DDL"):
        migrate_table(store, "execve", EventSchema(ExecveEvent, tmp_path / "none.sql"), None)


def test_ttl_follows_the_configuration(store: Store) -> None:
    """A number of days sets the table's TTL, another one changes it, none removes it."""
    migrate_table(store, "execve", SCHEMA, 30)
    assert "toIntervalDay(30)" in store.create_statement("execve_events")
    migrate_table(store, "execve", SCHEMA, 7)
    assert "toIntervalDay(7)" in store.create_statement("execve_events")
    migrate_table(store, "execve", SCHEMA, None)
    assert "TTL toDateTime" not in store.create_statement("execve_events")
