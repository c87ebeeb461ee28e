"""IP addresses: from a client's messages into IPv6 columns, and back as text."""

import json
import socket

import pyarrow as pa
from google.protobuf.timestamp_pb2 import Timestamp
from infrasight.v1.event_pb2 import EventHeader
from infrasight.v1.stream_pb2 import Batch, Messages
from infrasight_core.cli.format import json_lines
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.ddl import define_table
from infrasight_core.plugin.manager import PluginManager
from infrasight_probe_net.v1.connect_pb2 import ConnectEvent
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate_table
from infrasight_testbed.execve_batches import TIME, enriched, validated

PLUGINS = PluginManager.discover(["connect"])
SCHEMA = PLUGINS.schemas()["connect"]
ADDRESSES = ["::", "10.0.0.1", "2001:db8::ff00:42:8329", "::1", "255.255.255.255"]


def packed(text: str) -> bytes:
    """Returns an address as a column holds it."""
    return socket.inet_pton(socket.AF_INET6, text if ":" in text else f"::ffff:{text}")


def batch_of(addresses: list[bytes]) -> Batch:
    """Returns a batch of protobuf messages with these remote addresses."""
    header = EventHeader(time=Timestamp(seconds=TIME // 10**9))
    bodies = [
        ConnectEvent(header=header, remote_address=address).SerializeToString()
        for address in addresses
    ]
    return Batch(
        batch_id="b",
        probe="connect",
        message_type=SCHEMA.message_type,
        fingerprint=SCHEMA.fingerprint,
        rows=len(bodies),
        messages=Messages(messages=bodies),
    )


def answer(store: Store, sql: str) -> list[dict[str, object]]:
    """Returns the rows of a query as `infrasight query` prints them in JSON."""
    return [
        json.loads(line)
        for line in json_lines(pa.Table.from_batches(store.query(store.formatted(sql))))
    ]


def test_addresses_are_shown_as_text(store: Store) -> None:
    """IPv4, IPv6, extreme values and a missing address (`::`) pass through the store to JSON."""
    migrate_table(store, define_table("connect", SCHEMA), None)
    sent = validated(batch_of([b"", *map(packed, ADDRESSES[1:])]), SCHEMA)
    assert isinstance(sent, pa.RecordBatch)
    context = EnrichContext("server", "connect", "here", "b", TIME)
    rows = enriched(sent, context, PLUGINS, SCHEMA.stored)
    store.insert("connect_events", rows, "insert")
    shown = answer(store, "SELECT remote_address, local_address FROM connect_events")
    assert sorted(str(row["remote_address"]) for row in shown) == sorted(ADDRESSES)
    assert {row["local_address"] for row in shown} == {"::"}
    (one,) = answer(
        store,
        "SELECT count() AS rows FROM connect_events WHERE remote_address = toIPv6('10.0.0.1')",
    )
    assert one == {"rows": 1}


def test_address_of_another_length_is_rejected() -> None:
    """The batch is malformed, and the detail names the column."""
    rejection = validated(batch_of([b"\x0a\0\0\1"]), SCHEMA)
    assert not isinstance(rejection, pa.RecordBatch)
    assert "remote_address" in rejection.detail


def test_address_column_without_a_source_is_zeros() -> None:
    """An address column that no plugin fills holds `::` in every row."""
    table = SCHEMA.agent.empty_table().drop_columns(["remote_address"])
    context = EnrichContext("server", "connect", "here", "b", TIME)
    rows = enriched(table, context, PLUGINS, SCHEMA.stored)
    assert rows.schema.equals(SCHEMA.stored)
    three = pa.table({"local_port": pa.array([1, 2, 3], pa.uint32())})
    columns = ("remote_address", "node", "batch_id", "received_time")
    stored = pa.schema([SCHEMA.stored.field(name) for name in columns])
    rows = enriched(three, context, PluginManager(), stored)
    assert rows["remote_address"].to_pylist() == [bytes(16)] * 3


def test_other_columns_of_16_bytes_are_not_shown_as_addresses(store: Store) -> None:
    """Addresses are text, also nullable and in lists; FixedString(16) beside them stays bytes."""
    sql = """
    SELECT
        toFixedString('0123456789abcdef', 16) AS bytes,
        toIPv6('::ffff:10.0.0.1') AS one,
        [toIPv6('::1')] AS list,
        toNullable(toIPv6('::2')) AS nullable,
        [toFixedString('0123456789abcdef', 16)] AS others
    """
    expected = {
        "bytes": "0123456789abcdef",
        "one": "10.0.0.1",
        "list": ["::1"],
        "nullable": "::2",
        "others": ["0123456789abcdef"],
    }
    assert answer(store, sql) == [expected]
    assert answer(store, f"{sql} WHERE 0") == []
    union = f"SELECT one FROM ({sql}) UNION ALL SELECT toIPv6('::3') AS one"
    rows = answer(store, f"SELECT one FROM ({union}) ORDER BY one")
    assert rows == [{"one": "::3"}, {"one": "10.0.0.1"}]
