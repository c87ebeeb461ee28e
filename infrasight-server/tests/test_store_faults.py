"""Faults of a ClickHouse server: what is acknowledged stays, nothing is doubled, writers go on."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from infrasight_core.errors import StoreUnavailableError
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.ddl import define_table
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import BatchSummary
from infrasight_server.store.migration import migrate_table
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.execve_batches import NODE, SCHEMA, TIME, enriched, plugins, table
from infrasight_testbed.small_disk import SmallDisk

MakeSettings = Callable[..., ServerSettings]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def settings_for(clickhouse: ClickHouseServer, **settings: Any) -> ServerSettings:
    """Returns the settings of a server on free ports that uses this ClickHouse server."""
    return ServerSettings(
        listen="127.0.0.1:0",
        status_listen="127.0.0.1:0",
        store=clickhouse.url,
        linger_seconds=0.05,
        **settings,
    )


def complete(rows: pa.Table, batch_id: str) -> pa.Table:
    """Returns agent columns with the server's, as the server inserts them."""
    context = EnrichContext("server", "execve", NODE, batch_id, TIME)
    return enriched(rows, context, plugins())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 64 MiB."""
    with SmallDisk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def clickhouse_on_small_disk(small_disk: SmallDisk) -> Iterator[ClickHouseServer]:
    """A ClickHouse server whose data are on the small disk."""
    server = ClickHouseServer(small_disk.folder / "clickhouse").start()
    yield server
    server.kill()


@root_only
def test_full_disk_hides_no_stored_batch(
    small_disk: SmallDisk, clickhouse_on_small_disk: ClickHouseServer
) -> None:
    """A query on a full disk shows what is stored; with an empty answer, it would be doubled."""
    store = settings_for(clickhouse_on_small_disk).open_store()
    migrate_table(store, define_table("execve", SCHEMA), None)
    store.insert("execve_events", complete(table(3), "a"), "1")
    small_disk.fill()
    summaries = store.stored_batches("execve_events", [NODE], ["a", "b"])
    assert summaries == {(NODE, "a"): BatchSummary(3, TIME, TIME + 2_000, 3)}
    with pytest.raises(StoreUnavailableError, match="not enough space"):
        store.insert("execve_events", complete(table(3), "b"), "2")
    small_disk.free()
    store.insert("execve_events", complete(table(3), "b"), "3")
    store.close()
