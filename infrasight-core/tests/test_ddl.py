"""A probe's table: derived from its own columns and the shared part, checked by its message."""

from importlib import resources
from pathlib import Path

import infrasight_probe_execve
import pyarrow as pa
import pytest
from infrasight.v1.event_pb2 import EventHeader
from infrasight_core.errors import SchemaError
from infrasight_core.plugin import ddl
from infrasight_core.plugin.schema import EventSchema
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent

SQL = (resources.files(infrasight_probe_execve) / "execve_events.sql").read_text()
SIMPLE = "CREATE TABLE IF NOT EXISTS a (x UInt8)"


def schema_with(folder: Path, *replacements: tuple[str, str]) -> EventSchema:
    """Returns the execve schema with some of its DDL's text replaced."""
    sql = SQL
    for old, new in replacements:
        assert old in sql
        sql = sql.replace(old, new)
    path = folder / "changed.sql"
    path.write_text(sql)
    return EventSchema(ExecveEvent, path)


def clauses_of(sql: str) -> str:
    """Returns the derived statement's clauses after the columns, on one line."""
    statement = ddl.derive_table(sql).statement
    return " ".join(statement.rpartition("\n)\n")[2].split())


def test_table_of_execve_matches_its_message(tmp_path: Path) -> None:
    """The DDL of the execve probe has the columns of its message."""
    table = ddl.define_table("execve", schema_with(tmp_path))
    assert table.name == "execve_events"
    assert table.own_columns == {
        *("filename", "argv", "argv_length", "cwd", "parent_comm", "dirfd", "at_flags", "command")
    }


def test_shared_part_has_the_columns_of_the_event_header() -> None:
    """Each field of the protobuf header has a column of its name, in the same order."""
    columns = [c.name for c in ddl.derive_table(SIMPLE).columns if c.stored]
    assert columns == [*(field.name for field in EventHeader.DESCRIPTOR.fields), "x"]


def test_columns_come_out_with_type_and_definition() -> None:
    """The header's columns come first, then the probe's own, then the computed ones."""
    table = ddl.derive_table(SQL)
    columns = {c.name: c for c in table.columns}
    assert [c.name for c in table.columns][:2] == ["time", "node"]
    assert [c.name for c in table.columns][-4:] == ["dirfd", "at_flags", "duration", "command"]
    assert columns["time"] == ddl.TableColumn(
        "time", "DateTime64(9, 'UTC')", True, "time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1))"
    )
    assert [c.name for c in table.columns if not c.stored] == ["duration", "command"]
    assert columns["command"].definition == "command String ALIAS arrayStringConcat(argv, ' ')"


def test_derived_statement_is_complete() -> None:
    """The statement declares the header's columns itself, so no probe may use it as its own."""
    statement = ddl.derive_table(SQL).statement
    assert statement.startswith("CREATE TABLE IF NOT EXISTS execve_events (\n  time DateTime64")
    with pytest.raises(SchemaError, match="every event's table has time, node, pid"):
        ddl.derive_table(statement)


def test_probe_without_own_columns_gets_the_shared_part() -> None:
    """A statement without a column list is enough where the message has a header only."""
    assert ddl.derive_table("CREATE TABLE IF NOT EXISTS a").own_columns == frozenset()


@pytest.mark.parametrize(
    ("own", "derived"),
    [
        (
            "",
            "ENGINE=MergeTree PARTITION BY toDate(time) ORDER BY (node, time) "
            "SETTINGS ttl_only_drop_parts = 1",
        ),
        (
            "ENGINE = ReplacingMergeTree(time) ORDER BY (node, x)",
            "ENGINE=ReplacingMergeTree(time) PARTITION BY toDate(time) ORDER BY (node, x) "
            "SETTINGS ttl_only_drop_parts = 1",
        ),
        (
            "ENGINE = MergeTree PARTITION BY toYYYYMM(time) SAMPLE BY x",
            "ENGINE=MergeTree PARTITION BY toYYYYMM(time) ORDER BY (node, time) SAMPLE BY x "
            "SETTINGS ttl_only_drop_parts = 1",
        ),
        (
            "ENGINE = MergeTree PRIMARY KEY x",
            "ENGINE=MergeTree PARTITION BY toDate(time) PRIMARY KEY (x) "
            "SETTINGS ttl_only_drop_parts = 1",
        ),
        (
            "ENGINE = MergeTree SETTINGS index_granularity = 64, ttl_only_drop_parts = 0",
            "ENGINE=MergeTree PARTITION BY toDate(time) ORDER BY (node, time) "
            "SETTINGS ttl_only_drop_parts = 0, index_granularity = 64",
        ),
    ],
)
def test_own_clauses_replace_the_defaults(own: str, derived: str) -> None:
    """A clause that the probe's statement has replaces that default alone; settings are merged."""
    assert clauses_of(f"{SIMPLE} {own}") == derived


def test_own_index_joins_the_shared_one() -> None:
    """The probe's indexes stand beside the index of the batch id."""
    statement = ddl.derive_table(
        "CREATE TABLE IF NOT EXISTS a (x UInt8, INDEX xs x TYPE minmax)"
    ).statement
    assert "INDEX batch_id batch_id TYPE bloom_filter GRANULARITY 4,\n" in statement
    assert "INDEX xs x TYPE minmax\n)" in statement


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("execve_events\n", "exec_events\n", "the table is named exec_events, not execve_events"),
        ("    dirfd       Int32 CODEC(ZSTD(1)),\n", "", "column dirfd is missing"),
        ("cwd         String", "folder String", "ExecveEvent has no field for column folder"),
        ("dirfd       Int32", "dirfd Int16", "column dirfd is Int16; for int32 it must be Int32"),
        ("Array(String)", "String", "column argv is String"),
        ("cwd         String", "cwd Nullable(String)", "column cwd is Nullable(String)"),
        ("String ALIAS", "String DEFAULT", "ExecveEvent has no field for column command"),
    ],
)
def test_difference_from_the_message_is_named(
    tmp_path: Path, old: str, new: str, difference: str
) -> None:
    """The error names each column in which table and message differ."""
    with pytest.raises(SchemaError) as raised:
        ddl.define_table("execve", schema_with(tmp_path, (old, new)))
    assert difference in str(raised.value)


def test_all_differences_are_listed(tmp_path: Path) -> None:
    """One error lists them all, so that the author can fix them at once."""
    schema = schema_with(
        tmp_path, ("cwd         String", "cwd UInt64"), ("argv_length UInt32", "argv_length String")
    )
    with pytest.raises(
        SchemaError, match=r"column argv_length is String; .*; column cwd is UInt64"
    ):
        ddl.define_table("execve", schema)


def test_columns_in_another_order_are_rejected(tmp_path: Path) -> None:
    """The error shows the probe's own columns in both orders."""
    dirfd = "    dirfd       Int32 CODEC(ZSTD(1)),\n"
    flags = "    at_flags    UInt32 CODEC(ZSTD(1)),\n"
    schema = schema_with(tmp_path, (dirfd + flags, flags + dirfd))
    with pytest.raises(SchemaError, match=r"in the order filename, .*, at_flags, dirfd; the mess"):
        ddl.define_table("execve", schema)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT 1", "must be exactly one CREATE TABLE"),
        (f"{SIMPLE}; DROP TABLE a", "must be exactly one CREATE TABLE"),
        ("CREATE TABLE IF NOT EXISTS a ENGINE = Memory AS SELECT 1", "without AS"),
        ("CREATE TABLE a (x UInt8)", "IF NOT EXISTS"),
        ("CREATE TABLE IF NOT EXISTS d.a (x UInt8)", "must have no database"),
        ("CREATE TABLE IF NOT EXISTS a (x DEFAULT 1)", "column x has no type"),
        ("CREATE TABLE IF NOT EXISTS a (x UInt8", "not ClickHouse SQL"),
        ("", "must be exactly one CREATE TABLE"),
        (
            "CREATE TABLE IF NOT EXISTS a (x UInt8, pid UInt32, duration String)",
            "every event's table has pid, duration already",
        ),
        (
            "CREATE TABLE IF NOT EXISTS a (x UInt8, INDEX batch_id x TYPE minmax)",
            "every event's table has an index batch_id already",
        ),
        (f"{SIMPLE} ENGINE = Memory", "ENGINE = Memory: must be an engine of the MergeTree family"),
    ],
)
def test_unusable_statement_is_rejected(sql: str, reason: str) -> None:
    """Anything but one repeatable CREATE TABLE with own columns is a SchemaError."""
    with pytest.raises(SchemaError, match=reason):
        ddl.derive_table(sql)


def test_missing_sql_file_is_a_schema_error(tmp_path: Path) -> None:
    """The error names the probe and the path."""
    with pytest.raises(SchemaError, match=r"execve: DDL .*nowhere\.sql"):
        ddl.define_table("execve", EventSchema(ExecveEvent, tmp_path / "nowhere.sql"))


def test_nested_arrow_types_have_clickhouse_types() -> None:
    """Lists, maps and dictionaries take their item types' ClickHouse types."""
    assert ddl.clickhouse_types(pa.list_(pa.uint64())) == ("Array(UInt64)",)
    assert "Map(LowCardinality(String), UInt32)" in ddl.clickhouse_types(
        pa.map_(pa.string(), pa.uint32())
    )
    assert ddl.clickhouse_types(pa.dictionary(pa.int32(), pa.binary())) == (
        "String",
        "LowCardinality(String)",
    )


def test_canonical_type_has_one_spelling() -> None:
    """Spaces of a type as ClickHouse reports it make no difference."""
    assert ddl.canonical_type("DateTime64(9,'UTC')") == ddl.derive_table(SQL).columns[0].type
