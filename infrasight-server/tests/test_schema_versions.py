"""Agents and servers with different versions of a probe: every event is stored."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Hello, ProbeSchema, Rejection
from infrasight_core.agent.event_uplink import EventUplink
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.sink import Delivery
from infrasight_core.net import ipc
from infrasight_core.net.peer import Peer
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.schema import is_optional
from infrasight_server.ingest.schema_versions import find_incompatibility
from infrasight_server.ingest.validation import decode_events, schema_mismatch
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import Store
from infrasight_testbed.execve_batches import SCHEMA, batch, plugins, table
from infrasight_testbed.server_thread import running_server

OTHER = "0123456789abcdef"  # the fingerprint of another version
ROWS = 10


def decoded(content: pa.Table) -> pa.Table | Rejection:
    """What the server makes of a batch of another version of the probe."""
    (rows,) = content.combine_chunks().to_batches()
    sent = batch("b", content, arrow=ipc.to_frame(rows), fingerprint=OTHER, rows=content.num_rows)
    return decode_events(sent, SCHEMA)


def test_column_that_an_older_probe_lacks_is_empty_and_flagged() -> None:
    """The row says that it lacks the value; the other columns are as they were sent."""
    content = table(ROWS)
    stored = decoded(content.drop_columns(["cwd"]))
    assert isinstance(stored, pa.Table)
    assert stored.schema.equals(SCHEMA.agent)
    assert stored["cwd"].to_pylist() == [b""] * ROWS
    assert all("cwd_missing" in flags for flags in stored["quality"].to_pylist())
    others = [name for name in content.column_names if name not in ("cwd", "quality")]
    assert stored.select(others).equals(content.select(others))


def test_optional_column_that_an_older_probe_lacks_is_only_empty() -> None:
    """Tags may be empty at any time."""
    content = table(ROWS)
    optional = [field.name for field in SCHEMA.agent if is_optional(field)]
    assert optional
    stored = decoded(content.drop_columns(optional))
    assert isinstance(stored, pa.Table)
    assert stored["quality"].to_pylist() == content["quality"].to_pylist()


def test_order_of_columns_does_not_matter() -> None:
    """Columns are found by their names."""
    content = table(ROWS)
    stored = decoded(content.select(content.column_names[::-1]))
    assert isinstance(stored, pa.Table)
    assert stored.equals(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (table(1).append_column("new", pa.array([1])), "further columns, new: upgrade"),
        (
            table(1).set_column(0, table(1).column_names[0], pa.array(["text"])),
            f"column {table(1).column_names[0]} has the type string",
        ),
        (table(1).append_column("pid", table(1)["pid"]), "a column occurs twice"),
    ],
    ids=["newer", "other-type", "twice"],
)
def test_column_that_cannot_be_stored_is_named(content: pa.Table, reason: str) -> None:
    """A newer probe's column, and one of another type, are no rows but a reason."""
    rejection = decoded(content)
    assert isinstance(rejection, Rejection)
    assert reason in rejection.detail
    assert reason in find_incompatibility(content.schema, SCHEMA.agent)


def test_welcome_is_decided_by_the_columns() -> None:
    """An agent learns whether its batches can be stored before it sends one."""
    older = table(1).drop_columns(["cwd"]).schema.serialize().to_pybytes()
    newer = table(1).append_column("new", pa.array([1])).schema.serialize().to_pybytes()
    message = SCHEMA.message_type
    assert schema_mismatch(SCHEMA, message, OTHER, older) == ""
    assert "upgrade" in schema_mismatch(SCHEMA, message, OTHER, newer)
    assert "fingerprint" in schema_mismatch(SCHEMA, message, OTHER)
    assert "not a serialized" in schema_mismatch(SCHEMA, message, OTHER, b"garbage")


async def reached(done: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.02)


def count(store: Store) -> int:
    """The rows in the table."""
    (row,) = list(store.query("SELECT count() AS n FROM execve_events"))[-1].to_pylist()
    return int(row["n"])


@contextmanager
def server(folder: Path, known: PluginManager) -> Iterator[Server]:
    """A server with these plugins, on the same data and address."""
    settings = ServerSettings(listen=f"unix:{folder}/s", status_listen="127.0.0.1:0", data=folder)
    with running_server(settings, known) as running:
        yield running


def test_batches_wait_until_the_server_is_upgraded(tmp_path: Path) -> None:
    """A server without the probe accepts none; after its restart with the probe it gets all."""
    outbox = Outbox(64 << 20)
    for number in range(3):
        (rows,) = table(ROWS).combine_chunks().to_batches()
        assert outbox.put(Delivery(f"1-5-0-{number}", "execve", SCHEMA, rows, None))
    announced = ProbeSchema(
        probe="execve",
        message_type=SCHEMA.message_type,
        fingerprint=SCHEMA.fingerprint,
        arrow_schema=SCHEMA.agent.serialize().to_pybytes(),
    )
    hello = Hello(node="node-a", boot_id="b", probes=[announced])

    async def deliver() -> None:
        outbox.bind(asyncio.get_running_loop())
        uplink = EventUplink(Peer(f"unix:{tmp_path}/s"), lambda: hello, outbox)
        running = asyncio.create_task(uplink.run())
        with server(tmp_path, PluginManager()):
            await reached(lambda: "execve" in uplink.not_accepted)
            assert not outbox.can_send()
            assert outbox.waiting() == (3, 3 * ROWS)
        with server(tmp_path, plugins()) as upgraded:
            await reached(lambda: outbox.waiting() == (0, 0))
            assert uplink.not_accepted == {}
            assert await asyncio.to_thread(count, upgraded._store) == 3 * ROWS
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(deliver())
