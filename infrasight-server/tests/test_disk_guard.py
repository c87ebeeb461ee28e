"""The disk guard deletes the oldest days while the disk is too full, and accounts for them."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from attrs import evolve
from infrasight.v1.stream_pb2 import Account
from infrasight_server import metrics
from infrasight_server.settings import ServerSettings
from infrasight_server.store import disk_guard
from infrasight_server.store.accounts import migrate_accounts
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.disk_guard import DiskGuard
from infrasight_server.store.migration import migrate
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.clickhouse_users import users_with
from infrasight_testbed.execve_batches import SCHEMA, WINDOW, batch, hello, plugins, table
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.small_disk import SmallDisk
from infrasight_testbed.system import BIN, until

DAY = 86_400
WINDOWS_OF_A_DAY = 1_440
TODAY = 20_005
NOON = TODAY * DAY + DAY // 2
ROWS = 6_000
"""Rows of a day; each is a kilobyte that cannot be compressed."""
ROOT = Path(__file__).parents[2]
CONFIG = """<clickhouse>
    <path>{folder}/data/</path>
    <max_partition_size_to_drop>1</max_partition_size_to_drop>
    <access_control_improvements>
        <table_engines_require_grant>false</table_engines_require_grant>
        <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
    </access_control_improvements>
    <user_directories><users_xml><path>{folder}/users.xml</path></users_xml></user_directories>
</clickhouse>
"""

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


def documented_grants() -> str:
    """Returns the rights that docs/install.md gives the server's user."""
    text = (ROOT / "docs/install.md").read_text()
    grants = re.findall(r"^(GRANT .*) TO infrasight;$", text, re.MULTILINE)
    return "".join(f"<query>{grant}</query>" for grant in grants)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 128 MiB."""
    with SmallDisk(tmp_path / "disk", 128) as disk:
        yield disk


@pytest.fixture(params=["embedded", "clickhouse"])
def settings(request: pytest.FixtureRequest, small_disk: SmallDisk) -> Iterator[ServerSettings]:
    """The settings of a server whose store is on the small disk.

    The ClickHouse server does not let its users drop a partition of more than a byte by default,
    and its user has the documented rights alone.
    """
    values: dict[str, Any] = {"listen": "127.0.0.1:0", "status_listen": "127.0.0.1:0"}
    folder = small_disk.folder / "store"
    if request.param == "embedded":
        yield ServerSettings(**values, data=folder)
        return
    folder.mkdir()
    (folder / "users.xml").write_text(users_with("infrasight", documented_grants()))
    (folder / "config.xml").write_text(CONFIG.format(folder=folder))
    server = ClickHouseServer(folder, f"--config-file={folder}/config.xml").start()
    yield ServerSettings(**values, store=server.url.replace("//", "//infrasight@"))
    server.kill()


@pytest.fixture
def store(settings: ServerSettings) -> Iterator[Store]:
    """A store with five days of rows, and accounts that agree with them."""
    opened = settings.open_store()
    assert migrate(opened, {"execve": SCHEMA}, None) == {}
    migrate_accounts(opened, None)
    for day in range(TODAY - 4, TODAY + 1):
        insert_rows(opened, day)
    opened.command(
        "INSERT INTO accounts (node, probe, run, window, time, number, seen) "
        "SELECT node, probe, run, toUnixTimestamp(time) / 60 AS window, time, 1, stored "
        "FROM accounting"
    )
    yield opened
    opened.close()


def insert_rows(store: Store, day: int, rows: int = ROWS) -> None:
    """Inserts rows of some minutes of a day; one that began then belongs to the next day's."""
    first = day * WINDOWS_OF_A_DAY
    store.command(
        "INSERT INTO execve_events (node, time, batch_id, exe) "
        f"SELECT 'a', toDateTime64('{day * DAY}', 9), concat('run-', toString("
        f"if(number = 0, {first + WINDOWS_OF_A_DAY}, {first} + number % 10)), '-0-1'), "
        f"randomString(1000) FROM numbers({rows})"
    )


def days(store: Store) -> list[int]:
    """Returns the days that have rows, counted from today."""
    sql = "SELECT DISTINCT toUnixTimestamp(time) FROM execve_events"
    return sorted(seconds // DAY - TODAY for (seconds,) in store.rows(sql))


def limit_that_needs(store: Store, days_to_delete: float) -> float:
    """Returns the limit above which the disk is by the bytes of so many days."""
    ((total, free),) = store.rows(
        "SELECT toFloat64(total_space), toFloat64(free_space) FROM system.disks "
        "WHERE name = 'default'"
    )
    ((day,),) = store.rows(
        "SELECT avg(bytes_on_disk) FROM system.parts WHERE active AND table = 'execve_events' "
        "AND rows = {rows:UInt32}",
        {"rows": ROWS},
    )
    return float((total - free - days_to_delete * day) / total)


def deleted(store: Store) -> int:
    """Returns the number of deleted rows in the accounts, which agree to the event."""
    rows = store.rows("SELECT deleted, difference, settled FROM accounting")
    assert [row for row in rows if row[1:] != (0, 1)] == []
    return sum(row[0] for row in rows)


def verify(server: str) -> "subprocess.CompletedProcess[str]":
    """Runs `infrasight verify` for the last days."""
    options = ["--server", server, "--since", "3d", "--format", "json"]
    command = [str(BIN / "infrasight"), "verify", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def guard(store: Store, limit: float | None) -> DiskGuard:
    """Returns a guard that takes it to be noon of the last day with rows."""
    return DiskGuard(store, limit, lambda: float(NOON))


@root_only
def test_oldest_days_are_deleted_until_the_disk_is_below_the_limit(store: Store) -> None:
    """As many as needed; inserts go on; logs, metrics and accounts have what was deleted."""
    before = metrics.ROWS_DELETED.labels("execve_events")._value.get()
    watched = guard(store, limit_that_needs(store, 1.5))
    watched.look()
    assert days(store) == [-2, -1, 0]
    assert deleted(store) == 2 * ROWS
    assert metrics.ROWS_DELETED.labels("execve_events")._value.get() - before == 2 * ROWS
    last = datetime.fromtimestamp((TODAY - 3) * DAY, UTC).date().isoformat()
    assert f"the days up to {last} were deleted, because the store's disk was" in watched.warning()
    watched.look()
    assert days(store) == [-2, -1, 0]
    insert_rows(store, TODAY, 1)
    assert store.rows("SELECT count() FROM execve_events") == [(3 * ROWS + 1,)]


@root_only
def test_rows_of_today_are_never_deleted(store: Store) -> None:
    """Nor those of a day that ended less than an hour ago, whose last rows may still arrive."""
    late = DiskGuard(store, 1e-9, lambda: TODAY * DAY + 3_599.0)
    late.look()
    assert days(store) == [-1, 0]
    watched = guard(store, 1e-9)
    watched.look()
    assert days(store) == [0]
    assert deleted(store) == 4 * ROWS
    watched.look()
    assert days(store) == [0]
    assert "only today's rows are left" in watched.warning()


@root_only
def test_nothing_is_deleted_without_a_limit_or_below_it(
    small_disk: SmallDisk, store: Store
) -> None:
    """Not even on a full disk; the metric shows how full it is."""
    guard(store, 0.99).look()
    small_disk.fill()
    guard(store, None).look()
    assert metrics.DISK_USED._value.get() == pytest.approx(1, abs=0.01)
    small_disk.free()
    assert days(store) == [-4, -3, -2, -1, 0]


@root_only
def test_rows_of_a_deleted_day_that_arrive_later_are_counted_too(store: Store) -> None:
    """They are stored, and when they are deleted, they add to what was deleted of that day."""
    watched = guard(store, 1e-9)
    watched.look()
    insert_rows(store, TODAY - 4, 20)
    watched.look()
    assert days(store) == [0]
    ((rows,),) = store.rows("SELECT sum(deleted) FROM accounting")
    assert rows == 4 * ROWS + 20


@root_only
def test_rows_that_arrive_while_a_day_is_counted_are_not_deleted_uncounted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their day stays until the next look, which counts all rows; the next day is deleted first."""
    watched = guard(store, limit_that_needs(store, 0.5))
    last_blocks = DiskGuard._last_blocks

    def insert_first(self: DiskGuard) -> Any:
        if -4 in days(store):
            insert_rows(store, TODAY - 4, 20)
        return last_blocks(self)

    with monkeypatch.context() as patched:
        patched.setattr(DiskGuard, "_last_blocks", insert_first)
        watched.look()
    assert days(store) == [-4, -2, -1, 0]
    assert store.rows("SELECT sum(deleted) FROM accounting") == [(ROWS,)]
    guard(store, limit_that_needs(store, 0.5)).look()
    assert days(store) == [-2, -1, 0]
    assert store.rows("SELECT sum(deleted) FROM accounting") == [(2 * ROWS + 40,)]
    assert store.rows("SELECT -sum(difference) FROM accounting") == [(40,)]


@root_only
def test_guards_of_several_servers_delete_and_count_a_day_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both count the day before one deletes it; no further day is deleted."""
    limit = limit_that_needs(store, 0.5)
    both_counted = Barrier(2)
    last_blocks = DiskGuard._last_blocks

    def wait_first(self: DiskGuard) -> Any:
        both_counted.wait(60)
        return last_blocks(self)

    monkeypatch.setattr(DiskGuard, "_last_blocks", wait_first)
    threads = [Thread(target=guard(store, limit).look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert days(store) == [-3, -2, -1, 0]
    assert deleted(store) == ROWS


@root_only
def test_day_that_another_server_deletes_after_the_measurement_suffices(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second server does not delete the next day for the excess that is gone."""
    limit = limit_that_needs(store, 0.5)
    measure = DiskGuard._measure
    other = guard(store, limit)

    def measure_first(self: DiskGuard) -> tuple[float, float]:
        measured = measure(self)
        if self is not other:
            other.look()
        return measured

    monkeypatch.setattr(DiskGuard, "_measure", measure_first)
    guard(store, limit).look()
    assert days(store) == [-3, -2, -1, 0]
    assert deleted(store) == ROWS


@root_only
def test_days_that_a_query_still_reads_count_as_deleted(store: Store) -> None:
    """They occupy the disk until the query ends; no further day is deleted in their place."""
    answer = store.query("SELECT exe FROM execve_events")
    next(answer)
    next(answer)
    watched = guard(store, limit_that_needs(store, 0.5))
    watched.look()
    watched.look()
    assert days(store) == [-3, -2, -1, 0]
    assert sum(piece.num_rows for piece in answer) > ROWS
    watched.look()
    assert days(store) == [-3, -2, -1, 0]


@root_only
def test_disk_without_a_free_byte_is_reported(small_disk: SmallDisk, store: Store) -> None:
    """The store cannot delete a day then; the guard warns, and deletes when it can."""
    watched = guard(store, 1e-9)
    small_disk.fill()
    watched.look()
    assert "cannot measure the store's disk or delete days" in watched.warning()
    assert "not enough space" in watched.warning()
    small_disk.free()
    assert days(store) == [-4, -3, -2, -1, 0]
    watched.look()
    assert days(store) == [0]
    assert deleted(store) == 4 * ROWS


@root_only
def test_server_guards_its_disk(settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It deletes yesterday's rows that an agent has sent; `/readyz` warns, and `verify` adds up."""
    monkeypatch.setattr(disk_guard, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(disk_guard, "_LATE_SECONDS", 0)
    limited = evolve(settings, linger_seconds=0.02, disk_limit=1e-9)
    with running_server(limited, plugins()) as server, AgentClient(server.address) as agent:
        agent.send(hello())
        agent.answer()
        batch_id = f"run-{WINDOW}-0-1"
        counts = dict.fromkeys(("seen", "submitted", "read"), 30)
        account = Account(run="run", window=WINDOW, number=1, ended=True, **counts)
        agent.send(batch(batch_id, table(30), account=account))
        assert agent.answers(1) == {batch_id: "stored"}
        until(lambda: "above disk_limit" in server._readiness()[1], "the warning")
        sql = "SELECT sum(deleted) FROM accounting"
        until(lambda: server._store.rows(sql) == [(30,)], "yesterday is deleted")
        assert server._readiness()[0]
        assert server._store.rows("SELECT count() FROM execve_events") == [(0,)]
        done = verify(server.address)
    row = json.loads(done.stdout)
    names = ("seen", "stored", "deleted", "difference", "problems")
    assert [row[name] for name in names] == [30, 0, 30, 0, []]
    assert (done.returncode, done.stderr) == (0, "")
