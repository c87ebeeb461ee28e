"""The DDL of a probe against its protobuf message."""

from importlib import resources
from pathlib import Path

import infrasight_probe_execve
import pyarrow as pa
import pytest
from infrasight_core.errors import SchemaError
from infrasight_core.plugin import ddl
from infrasight_core.plugin.schema import EventSchema
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent

SQL = (resources.files(infrasight_probe_execve) / "execve_events.sql").read_text()


def schema_with(folder: Path, *replacements: tuple[str, str]) -> EventSchema:
    """The execve schema whose DDL has some text replaced."""
    sql = SQL
    for old, new in replacements:
        assert old in sql
        sql = sql.replace(old, new)
    path = folder / "changed.sql"
    path.write_text(sql)
    return EventSchema(ExecveEvent, path)


def test_execve_agrees(tmp_path: Path) -> None:
    """The DDL of the execve probe says what its message says."""
    ddl.check("execve", schema_with(tmp_path))


def test_parse_reads_names_types_and_definitions() -> None:
    """Every column comes out in order, the computed ones marked, with a definition that ALTER TABLE takes."""
    table = ddl.parse(SQL)
    columns = {c.name: c for c in table.columns}
    assert table.name == "execve_events"
    assert [c.name for c in table.columns][:2] == ["time", "node"]
    assert columns["time"] == ddl.TableColumn(
        "time", "DateTime64(9, 'UTC')", True, "time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1))"
    )
    assert [c.name for c in table.columns if not c.stored] == ["duration", "command"]
    assert columns["command"].definition == "command String ALIAS arrayStringConcat(argv, ' ')"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("execve_events\n", "exec_events\n", "the table is called exec_events, not execve_events"),
        ("    pid                     UInt32 CODEC(T64, ZSTD(1)),\n", "", "column pid is missing"),
        (
            "pid                     UInt32",
            "process_id UInt32",
            "column process_id is in no field of",
        ),
        (
            "return_code             Int32",
            "return_code Int16",
            "column return_code is Int16; for int32 it must be Int32",
        ),
        (
            "time                    DateTime64(9, 'UTC')",
            "time DateTime",
            "column time is DateTime; for timestamp[ns, tz=UTC]",
        ),
        ("Array(String)", "String", "column argv is String"),
        (
            "user                    LowCardinality(String)",
            "user Nullable(String)",
            "column user is Nullable(String)",
        ),
        ("String ALIAS multiIf", "String DEFAULT multiIf", "column duration is in no field of"),
    ],
)
def test_a_difference_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    """What differs between table and message is in the error, by column."""
    with pytest.raises(SchemaError) as raised:
        ddl.check("execve", schema_with(tmp_path, (old, new)))
    assert said in str(raised.value)


def test_all_differences_are_listed(tmp_path: Path) -> None:
    """One error lists them all, so that they can be mended at once."""
    schema = schema_with(
        tmp_path,
        ("cwd                     String", "cwd UInt64"),
        ("gid                     UInt32", "gid String"),
    )
    with pytest.raises(SchemaError, match=r"column gid is String; .*; column cwd is UInt64"):
        ddl.check("execve", schema)


def test_order_is_part_of_the_agreement(tmp_path: Path) -> None:
    """The same columns in another order are refused."""
    cpu, batch = (
        "    cpu                     UInt32 CODEC(ZSTD(1)),\n",
        "    batch_id                LowCardinality(String),\n",
    )
    with pytest.raises(SchemaError, match="the columns' order is"):
        ddl.check("execve", schema_with(tmp_path, (batch + cpu, cpu + batch)))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT 1", "must be one CREATE TABLE"),
        (
            "CREATE TABLE IF NOT EXISTS a (x UInt8) ENGINE = Memory; DROP TABLE a",
            "must be one CREATE TABLE",
        ),
        ("CREATE TABLE IF NOT EXISTS a ENGINE = Memory AS SELECT 1", "with a list of columns"),
        ("CREATE TABLE a (x UInt8) ENGINE = Memory", "IF NOT EXISTS"),
        ("CREATE TABLE IF NOT EXISTS d.a (x UInt8) ENGINE = Memory", "must have no database"),
        ("CREATE TABLE IF NOT EXISTS a (x DEFAULT 1) ENGINE = Memory", "column x has no type"),
        ("CREATE TABLE IF NOT EXISTS a (x UInt8", "not ClickHouse SQL"),
        ("", "must be one CREATE TABLE"),
    ],
)
def test_what_is_no_table_definition_is_refused(sql: str, said: str) -> None:
    """Anything but one idempotent CREATE TABLE without a database is a SchemaError that says so."""
    with pytest.raises(SchemaError, match=said):
        ddl.parse(sql)


def test_a_missing_file_is_a_schema_error(tmp_path: Path) -> None:
    """A plugin without its .sql file is named, with the path."""
    with pytest.raises(SchemaError, match=r"execve: DDL .*nowhere\.sql"):
        ddl.check("execve", EventSchema(ExecveEvent, tmp_path / "nowhere.sql"))


def test_nested_arrow_types() -> None:
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
    """Spaces and letter case of a type as ClickHouse reports it make no difference."""
    assert ddl.canonical_type("DateTime64(9,'UTC')") == ddl.parse(SQL).columns[0].type
