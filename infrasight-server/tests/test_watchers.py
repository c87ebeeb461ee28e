"""The rows of a slow watcher are dropped; other watchers get theirs."""

import asyncio

import pyarrow as pa
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
        watchers = Watchers()
        with watchers.watching(["execve"]) as slow, watchers.watching([]) as quick:
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
