"""A slow watcher costs itself, not the others."""

import asyncio

from infrasight_server.query.watchers import Watchers
from infrasight_testbed.execve_batches import table


def test_what_a_slow_watcher_misses_is_counted() -> None:
    """Beyond its bound a watcher gets no more rows, and is told how many it missed; a quick one gets all."""
    large = table(70_000)

    async def watch() -> None:
        watchers = Watchers()
        with watchers.watching(["execve"]) as slow, watchers.watching([]) as quick:
            for _ in range(4):
                watchers.publish("execve", large)
                watchers.publish("other", table(1))
                assert [await quick.next(), await quick.next()] == [
                    ("execve", large, 0),
                    ("other", table(1), 0),
                ]
            assert await slow.next() == ("execve", large, 3 * 70_000)
            watchers.publish("execve", table(5))
            assert await slow.next() == ("execve", table(5), 0)
            watchers.end()
            assert await slow.next() is None

    asyncio.run(watch())
