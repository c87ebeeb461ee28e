"""Both stores as the server uses them: all types, read-only queries, transient errors."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest
from infrasight_core.errors import ConfigError, QueryError, StoreError, StoreUnavailableError
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.ddl import define_table
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import BatchSummary, Store
from infrasight_server.store.migration import migrate_table
from infrasight_server.store.query_limits import QueryLimits
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.execve_batches import NODE, SCHEMA, TIME, enriched, plugins, table
from infrasight_testbed.ports import free_port

MakeSettings = Callable[..., ServerSettings]
ODD = [
    b"\xff\xfe not UTF-8",
    b"two\nlines\tand a tab",
    b"",
    "größer ✓".encode(),
    b"'quoted' \\ \"twice\"",
]


def stored(rows: pa.Table, batch_id: str = "batch") -> pa.Table:
    """Returns agent columns with the server's, as the server inserts them."""
    context = EnrichContext("server", "execve", NODE, batch_id, TIME + 5)
    return enriched(rows, context, plugins())


def answer(store: Store, sql: str) -> pa.Table:
    """Returns the whole answer of a query."""
    return pa.Table.from_batches(store.query(store.formatted(sql)))


def as_bytes(value: Any) -> Any:
    """Returns a value as queries return it: with every string as bytes."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list | tuple):
        return type(value)(as_bytes(item) for item in value)
    return value


def test_query_finds_a_byte_that_is_not_utf8(store: Store) -> None:
    """A string with the escape of such a byte, as rows show it, is that byte in both stores."""
    (row,) = answer(
        store, r"SELECT '/tmp/\xff' AS path, path = concat('/tmp/', char(255)) AS same"
    ).to_pylist()
    assert row == {"path": b"/tmp/\xff", "same": 1}


def test_every_column_is_stored_byte_for_byte(store: Store) -> None:
    """Bytes that are not UTF-8, newlines, empty lists and extreme numbers come back unchanged."""
    migrate_table(store, define_table("execve", SCHEMA), None)
    times = [0, 1, TIME, 1_799_999_999_999_999_999, 4_102_444_800_000_000_001]
    arguments = [ODD, [], [b""], [b"x"] * 500, [b"", b"", b"\xff"]]
    flags = [[], ["argv_cut"], [], ["argv_cut", "exe_missing"], []]
    rows = table(
        5,
        time=pa.array(times).cast(SCHEMA.agent.field("time").type),
        pid=pa.array([0, 1, 2**31, 2**32 - 1, 5], pa.uint32()),
        process_key=pa.array([0, 1, 2**63, 2**64 - 1, 5], pa.uint64()),
        return_code=pa.array([0, -2, -(2**31), 2**31 - 1, 5], pa.int32()),
        comm=pa.array(ODD).dictionary_encode(),
        error=pa.array(["", "ENOENT", "", "EACCES", ""]).dictionary_encode(),
        exe=pa.array(ODD),
        argv=pa.array(arguments, SCHEMA.agent.field("argv").type),
        quality=pa.array(flags, SCHEMA.agent.field("quality").type),
    )
    sent = stored(rows)
    store.insert("execve_events", sent, "insert")
    returned = answer(store, "SELECT * FROM execve_events ORDER BY sequence")
    assert returned.column_names == SCHEMA.stored.names
    for name in SCHEMA.stored.names:
        if pa.types.is_timestamp(sent[name].type):
            nanoseconds = returned[name].cast(pa.int64()).to_pylist()
            assert nanoseconds == sent[name].cast(pa.int64()).to_pylist(), name
        else:
            assert returned[name].to_pylist() == as_bytes(sent[name].to_pylist()), name


def test_computed_columns_are_readable(store: Store) -> None:
    """`duration` has a unit, and `command` is the command line."""
    migrate_table(store, define_table("execve", SCHEMA), None)
    nanoseconds = pa.array([999, 1_500, 2_340_000, 61_250_000_000], pa.uint64())
    store.insert("execve_events", stored(table(4, duration_ns=nanoseconds)), "insert")
    returned = answer(store, "SELECT duration, command FROM execve_events ORDER BY sequence")
    assert returned["duration"].to_pylist() == [
        b"999 ns",
        "1.5 µs".encode(),
        b"2.34 ms",
        b"61.25 s",
    ]
    assert returned["command"][0].as_py() == b"-c -c"


def test_stored_rows_are_summarized_by_node_and_batch(store: Store) -> None:
    """Summaries are per node and batch id; positions are those of the batch's rows."""
    migrate_table(store, define_table("execve", SCHEMA), None)
    store.insert("execve_events", stored(table(3), "a"), "1")
    store.insert("execve_events", stored(table(4, first=10), "b"), "2")
    assert store.stored_batches("execve_events", [NODE], ["a", "b", "c"]) == {
        (NODE, "a"): BatchSummary(3, TIME, TIME + 2_000, 3),
        (NODE, "b"): BatchSummary(4, TIME + 10_000, TIME + 13_000, 46),
    }
    assert sorted(store.stored_positions("execve_events", NODE, "a")["sequence"].to_pylist()) == [
        0,
        1,
        2,
    ]
    assert store.stored_positions("execve_events", NODE, "c").num_rows == 0
    assert not store.running_inserts("execve_events")


def test_permanent_error_differs_from_a_transient_one(store: Store) -> None:
    """Too many partitions in one insert fail permanently; a missing table may be created."""
    migrate_table(store, define_table("execve", SCHEMA), None)
    days = pa.array([TIME + day * 86_400_000_000_000 for day in range(150)]).cast(
        SCHEMA.agent.field("time").type
    )
    with pytest.raises(StoreError, match="Too many partitions") as raised:
        store.insert("execve_events", stored(table(150, time=days)), "1")
    assert not isinstance(raised.value, StoreUnavailableError)
    with pytest.raises(StoreUnavailableError, match="UNKNOWN_TABLE"):
        store.insert("nowhere", stored(table(1)), "2")


def test_large_answer_comes_in_pieces(store: Store) -> None:
    """The first piece has no rows and all columns."""
    pieces = list(store.query("SELECT number FROM numbers(300000)"))
    assert pieces[0].num_rows == 0
    assert pieces[0].schema.names == ["number"]
    assert len(pieces) > 2
    assert sum(piece.num_rows for piece in pieces) == 300_000


def test_answer_beyond_the_limit_is_an_error(make_settings: MakeSettings, store: Store) -> None:
    """The store ends a query whose answer exceeds `query_bytes`."""
    store.close()
    small = make_settings(query_bytes=1_000_000).open_store()
    with pytest.raises(QueryError, match="Limit for result exceeded"):
        list(small.query("SELECT number FROM numbers(10000000)"))
    small.close()


@pytest.mark.parametrize(
    ("limits", "sql", "message"),
    [
        (QueryLimits(rows=10), "SELECT number FROM numbers(11)", "Limit for result exceeded"),
        (QueryLimits(bytes=1000), "SELECT number FROM numbers(1000)", "Limit for result exceeded"),
        (QueryLimits(seconds=0.2), "SELECT sum(cityHash64(number)) FROM numbers(1e12)", "imeout"),
        (
            QueryLimits(memory_bytes=10_000_000),
            "SELECT length(groupArray(number)) FROM numbers(1e9)",
            "memory limit exceeded",
        ),
    ],
)
def test_store_ends_a_query_at_its_limits(
    store: Store, limits: QueryLimits, sql: str, message: str
) -> None:
    """Rows, bytes, time and memory; the next query works."""
    with pytest.raises(QueryError, match=message):
        list(store.query(sql, limits))
    assert answer(store, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_cancelled_query_ends(store: Store) -> None:
    """A query that runs in another thread raises QueryError; others are not affected."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            list(store.query("SELECT sum(cityHash64(number)) FROM numbers(1e12)", query_id="long"))
        except QueryError as error:
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    while not raised and thread.is_alive():
        store.cancel("long")
        thread.join(0.05)
    thread.join()
    (error,) = raised
    assert "cancelled" in str(error).lower()
    store.cancel("long")


def test_query_connection_cannot_write(store: Store) -> None:
    """The store itself rejects writing, and leaving the read-only mode, without the guard."""
    migrate_table(store, define_table("execve", SCHEMA), None)
    for sql in (
        "DROP TABLE execve_events",
        "INSERT INTO execve_events (pid) SELECT 1",
        "CREATE TABLE t (a UInt8) ENGINE = Memory",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
    ):
        with pytest.raises(QueryError):
            list(store.query(sql))
    assert store.columns("execve_events")


def test_unreachable_server_is_named() -> None:
    """The error has the URL and the operating system's message."""
    url = f"http://127.0.0.1:{free_port()}/"
    with pytest.raises(
        StoreError, match=f"cannot use the ClickHouse server at {url}: Connection refused"
    ):
        Store.at(url, "infrasight")


@pytest.mark.parametrize(
    "url", ["embeded", "http://", "http://user:secret@host:8123/", "ftp://host/"]
)
def test_malformed_store_url_is_rejected(url: str) -> None:
    """A misspelled store or a password in the URL is a ConfigError without the password."""
    with pytest.raises(ConfigError, match="store: must be `embedded` or http") as raised:
        Store.at(url, "infrasight")
    assert "secret" not in str(raised.value)


def test_unknown_user_is_an_error(clickhouse: ClickHouseServer) -> None:
    """The error comes at once and does not contain the password."""
    with pytest.raises(StoreError, match="Authentication failed") as raised:
        Store.at(clickhouse.url.replace("//", "//nobody@"), "infrasight", password="secret")
    assert "secret" not in str(raised.value)


def test_unwritable_data_directory_is_named(tmp_path: Path) -> None:
    """A file in place of the folder and an unwritable folder are one clear error."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/infrasight")):
        with pytest.raises(StoreError, match=f"data directory {folder} is not writable"):
            Store.embedded(folder, "infrasight")
