"""The enricher `reverse_dns`: names of remote addresses from a real name server on loopback."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pyarrow as pa
import pytest
from infrasight_core import ConfigError, EnrichContext
from infrasight_core.agent.batches import conform
from infrasight_core.enrichers import reverse_dns
from infrasight_core.enrichers.async_lookup import LOOKUPS
from infrasight_core.plugin.manager import PluginManager
from infrasight_testbed.name_server import name_server
from infrasight_testbed.system import until

NAMED = "192.0.2.5"
NAMED6 = "2001:db8::5"
NAMELESS = "192.0.2.9"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a dnsmasq that names two addresses and answers that others have no name."""
    with name_server({NAMED: "db.example", NAMED6: "db6.example"}) as port:
        yield port


def batch(*addresses: str) -> pa.RecordBatch:
    """Returns events with these remote addresses; an empty text is no address."""
    parsed = [ip_address(address or "::") for address in addresses]
    packed = [a.packed if a.version == 6 else bytes(10) + b"\xff\xff" + a.packed for a in parsed]
    return pa.record_batch([pa.array(packed, pa.binary(16))], names=["remote_address"])


def names(rows: pa.RecordBatch, port: int, **options: Any) -> list[bytes | None]:
    """Returns the column that the enricher adds."""
    table = {"enabled": True, "servers": ["127.0.0.1"], "port": port, **options}
    context = EnrichContext("agent", "connect", "here", options=table)
    column: list[bytes | None] = reverse_dns.enrich(rows, context)["remote_name"].to_pylist()
    return column


def lookups(outcome: str) -> float:
    """Returns how many lookups had an outcome, by the metric."""
    return float(LOOKUPS.labels("reverse_dns", outcome)._value.get())


def test_names_are_known_from_the_second_batch_on(server: int) -> None:
    """IPv4 and IPv6 addresses get their names; no name and no address are empty, not null."""
    rows = batch(NAMED, "", NAMED6, NAMELESS, NAMED)
    assert names(rows, server, ttl_seconds=100) == [None, b"", None, None, None]
    until(lambda: None not in names(rows, server, ttl_seconds=100), "all names are known")
    assert names(rows, server, ttl_seconds=100) == [
        b"db.example",
        b"",
        b"db6.example",
        b"",
        b"db.example",
    ]


def test_batch_may_wait_for_names(server: int) -> None:
    """Batches that wait get the names; an address that ends with zero bytes is queried whole."""
    rows = batch(NAMED, "2001:db8::")
    expected = [b"db.example", b""]
    until(lambda: names(rows, server, wait_seconds=1) == expected, "the names are known")


def test_silent_server_holds_up_no_batch() -> None:
    """Names stay unknown, the queue is bounded, and every outcome is counted."""
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        rows = batch(*[f"198.51.100.{number}" for number in range(50)])
        failed_before = lookups("failed")
        rejected_before = lookups("queue_full")
        options = {"threads": 1, "queue_size": 4, "timeout_seconds": 0.1}
        assert names(rows, port, **options) == [None] * 50
        assert lookups("queue_full") - rejected_before >= 45
        until(lambda: lookups("failed") - failed_before >= 4, "queued lookups have failed")
        assert names(rows, port, **options) == [None] * 50


def test_disabled_enricher_leaves_the_column_empty() -> None:
    """By default no lookup is made, the column is empty, and `quality` does not flag it."""
    plugins = PluginManager.discover(["connect"])
    schema = plugins.schemas()["connect"].agent
    rows = pa.record_batch(
        [pa.array([0], pa.uint64()), *batch(NAMED).columns], names=["quality", "remote_address"]
    )
    assert reverse_dns.enrich(rows, EnrichContext("agent", "connect", "here")) == {}
    (row,) = conform(rows, {}, schema, []).to_pylist()
    assert (row["remote_name"], row["tags"]) == (b"", [])
    assert "user_missing" in row["quality"]
    assert {"remote_name_missing", "tags_missing"} & set(row["quality"]) == set()


def test_invalid_options_are_rejected() -> None:
    """An unknown option and a value out of bounds are named, with what is allowed."""
    plugins = PluginManager.discover([])
    unknown = r"unknown key options\.reverse_dns\.enable .*: did you mean enabled"
    with pytest.raises(ConfigError, match=unknown):
        plugins.check_options("reverse_dns", {"enable": True})
    too_large = r"options\.reverse_dns\.wait_seconds = 5 .*: must be <= 1"
    with pytest.raises(ConfigError, match=too_large):
        plugins.check_options("reverse_dns", {"wait_seconds": 5})
