"""The rows of a slow watcher are dropped; other watchers get theirs."""

import asyncio

import pyarrow as pa
import pytest
from infrasight_core.errors import LimitError
from infrasight_server.query.watchers import WatchedRows, Watcher, Watchers
from infrasight_testbed.execve_batches import table

LARGE = table(70_000)
SMALL = table(1)


async def next_rows(watcher: Watcher) -> tuple[str, pa.Table, int]:
    """Returns the probe, the rows and the number of dropped rows that a watcher gets next."""
    watched = await watcher.next()
    assert isinstance(watched, WatchedRows)
    return watched.probe, watched.rows, watched.dropped


def test_slow_watcher_learns_how_many_rows_were_dropped() -> None:
    """Beyond its bound a watcher's rows are dropped and counted; a quick watcher gets all."""

    async def watch() -> None:
        watchers = Watchers(per_peer=8)
        with watchers.watching(["execve"], "a") as slow, watchers.watching([], "b") as quick:
            for _ in range(4):
                watchers.publish("execve", LARGE)
                watchers.publish("other", SMALL)
                assert await next_rows(quick) == ("execve", LARGE, 0)
                assert await next_rows(quick) == ("other", SMALL, 0)
            assert await next_rows(slow) == ("execve", LARGE, 3 * 70_000)
            watchers.publish("execve", table(5))
            assert await next_rows(slow) == ("execve", table(5), 0)
            watchers.end()
            assert await slow.next() is None

    asyncio.run(watch())


def test_watchers_of_one_peer_share_a_budget() -> None:
    """More watchers do not queue more than one, beyond one batch each; other peers get theirs."""

    async def watch() -> None:
        watchers = Watchers(per_peer=8)
        with (
            watchers.watching([], "a") as first,
            watchers.watching([], "a") as second,
            watchers.watching([], "b") as other,
        ):
            watchers.publish("execve", LARGE)
            watchers.publish("execve", SMALL)
            for watcher in (first, second):
                assert await next_rows(watcher) == ("execve", LARGE, 1)
            assert await next_rows(other) == ("execve", LARGE, 0)
            assert await next_rows(other) == ("execve", SMALL, 0)
            watchers.publish("execve", SMALL)
            assert await next_rows(second) == ("execve", SMALL, 0)

    asyncio.run(watch())


def test_peer_has_a_bounded_number_of_watchers() -> None:
    """One more is rejected, another peer's is not; the end of one makes room."""
    watchers = Watchers(per_peer=2)
    with watchers.watching([], "a"):
        with watchers.watching([], "a"):
            with pytest.raises(LimitError, match="a has 2 watchers already"):
                watchers.watching([], "a").__enter__()
            with watchers.watching([], "b"):
                watchers.publish("execve", SMALL)
        with watchers.watching([], "a"):
            watchers.publish("execve", SMALL)
