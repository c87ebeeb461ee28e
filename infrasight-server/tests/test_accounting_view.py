"""The view `accounting` counts the stored rows of each run and window."""

import re
import time
from typing import Any

import pytest
from infrasight_server.store.accounts import migrate_accounts
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_server.store.ttl import Ttl
from infrasight_testbed.execve_batches import SCHEMA

DAY = 86_400
WINDOWS_OF_A_DAY = 1_440
OLD_DAY = 20_000
NEW_DAY = 20_001


@pytest.fixture
def migrated(store: Store) -> Store:
    """A store with the table of execve and the view."""
    assert migrate(store, {"execve": SCHEMA}, None) == {}
    migrate_accounts(store, None)
    return store


def insert_row(store: Store, day: int, batch_id: str) -> None:
    """Stores a row of a day, which is a partition of the table."""
    store.command(
        "INSERT INTO execve_events (node, time, batch_id) "
        f"VALUES ('a', toDateTime64('{day * DAY}', 9), '{batch_id}')"
    )


def rows_of(store: Store, sql: str) -> list[dict[str, Any]]:
    """Returns the rows of a query."""
    return [row for piece in store.query(sql) for row in piece.to_pylist()]


@pytest.mark.parametrize(
    ("batch_id", "run", "window"),
    [
        ("18b4-29000000-3-1f", b"18b4", 29_000_000),
        ("18b4-29000000", b"18b4", 29_000_000),
        ("18b4-29000000x-3", b"18b4", 0),
        ("18b4-99999999999-3", b"18b4", 0),
        ("18b4--3", b"18b4", 0),
        ("-5-3", b"", 5),
        ("18b4", b"18b4", 0),
        ("5", b"5", 0),
    ],
)
def test_stored_rows_count_for_the_run_and_window_of_their_batch(
    migrated: Store, batch_id: str, run: bytes, window: int
) -> None:
    """The first part of a batch's id is the run, the second the window, 0 if it is no number."""
    insert_row(migrated, NEW_DAY, batch_id)
    found = rows_of(
        migrated, "SELECT run, toUnixTimestamp(time) AS seconds, stored FROM accounting"
    )
    assert found == [{"run": run, "seconds": window * 60, "stored": 1}]


def test_query_reads_only_the_windows_that_it_asks_for(migrated: Store) -> None:
    """The index `window` excludes a part with rows of an earlier window."""
    old_window = OLD_DAY * WINDOWS_OF_A_DAY
    new_window = NEW_DAY * WINDOWS_OF_A_DAY
    insert_row(migrated, OLD_DAY, f"run-{old_window}-0-1")
    insert_row(migrated, NEW_DAY, f"run-{new_window}-0-1")
    query = f"SELECT stored FROM accounting WHERE time >= toDateTime({new_window * 60}, 'UTC')"
    assert [row["stored"] for row in rows_of(migrated, query)] == [1]
    lines = [
        line for row in rows_of(migrated, f"EXPLAIN indexes = 1 {query}") for line in row.values()
    ]
    plan = b"\n".join(lines).decode()
    parts_read = re.findall(r"Name: window\n.*\n.*Condition: .*\n.*Parts: (\d/\d)\n", plan)
    assert parts_read[-1] == "1/2"  # the others are of the rejections


def test_view_ends_where_the_ttl_of_the_probe_begins(migrated: Store) -> None:
    """Minutes whose rows or accounts may be deleted are left out; other probes keep theirs."""
    window = int(time.time()) // 60 - 3 * WINDOWS_OF_A_DAY
    for age in (0, WINDOWS_OF_A_DAY):
        insert_row(migrated, NEW_DAY, f"run-{window - age}-0-1")

    def windows(ttl: Ttl) -> list[int]:
        migrate_accounts(migrated, ttl)
        query = "SELECT intDiv(toUnixTimestamp(time), 60) AS window FROM accounting ORDER BY window"
        return [row["window"] for row in rows_of(migrated, query)]

    assert windows(Ttl(4)) == [window]
    assert windows(Ttl(1, {"execve": 5, "open": 1})) == [window - WINDOWS_OF_A_DAY, window]
    assert windows(Ttl(5, {"execve": 1})) == []
    assert windows(Ttl(None, {"open": 1})) == [window - WINDOWS_OF_A_DAY, window]
