"""A batch that is larger than the server accepts costs only itself."""

import asyncio
from pathlib import Path

from infrasight_core.agent.event_uplink import EventUplink
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.sink import Delivery
from infrasight_core.net.peer import Peer
from infrasight_server.settings import ServerSettings
from infrasight_testbed.execve_batches import SCHEMA, hello, plugins, table
from infrasight_testbed.server_thread import running_server

LARGE_ROWS = 200_000
"""So many that gRPC itself ends a stream with them."""
SMALL_ROWS = 10


def test_batch_that_the_server_would_not_read_is_rejected(tmp_path: Path) -> None:
    """It is rejected and recorded, and the batch behind it is stored; the agent does not loop."""
    settings = ServerSettings(
        listen=f"unix:{tmp_path}/s",
        status_listen="127.0.0.1:0",
        data=tmp_path,
        max_batch_bytes=100_000,
    )
    outbox = Outbox(64 << 20)
    for batch_id, rows in (("1-5-0-0", LARGE_ROWS), ("1-5-0-1", SMALL_ROWS)):
        (batch,) = table(rows).combine_chunks().to_batches()
        assert outbox.put(Delivery(batch_id, "execve", SCHEMA, batch, None))
    assert outbox.waiting() == (2, LARGE_ROWS + SMALL_ROWS)

    async def deliver(address: str) -> None:
        outbox.bind(asyncio.get_running_loop())
        uplink = EventUplink(Peer(address), hello, outbox)
        running = asyncio.create_task(uplink.run())
        async with asyncio.timeout(60):
            while outbox.waiting() != (0, 0):
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with running_server(settings, plugins()) as server:
        asyncio.run(deliver(server.address))
        store = server._store
        (stored,) = list(store.query("SELECT count() AS n FROM execve_events"))[-1].to_pylist()
        (rejected,) = list(store.query("SELECT batch_id, rows FROM rejections"))[-1].to_pylist()
    assert stored == {"n": SMALL_ROWS}
    assert rejected == {"batch_id": b"1-5-0-0", "rows": LARGE_ROWS}
