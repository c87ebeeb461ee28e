"""Names of remote addresses, asked of a real name server on loopback, beside the data."""

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pyarrow as pa
import pytest
from infrasight_core import ConfigError, EnrichContext
from infrasight_core.agent.batches import conform
from infrasight_core.enrichers import reverse_dns
from infrasight_core.enrichers.async_lookup import ANSWERS
from infrasight_core.plugin.manager import PluginManager
from infrasight_testbed.name_server import name_server

NAMED, NAMED6, NAMELESS = "192.0.2.5", "2001:db8::5", "192.0.2.9"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a dnsmasq that knows two addresses, and that the others have no name."""
    with name_server({NAMED: "db.example", NAMED6: "db6.example"}) as port:
        yield port


def batch(*addresses: str) -> pa.RecordBatch:
    """Events of these remote ends; none where there is none."""
    kept = [ip_address(a) if a else ip_address("::") for a in addresses]
    packed = [a.packed if a.version == 6 else bytes(10) + b"\xff\xff" + a.packed for a in kept]
    return pa.record_batch([pa.array(packed, pa.binary(16))], names=["remote_address"])


def names(rows: pa.RecordBatch, port: int, **options: Any) -> list[bytes | None]:
    """What the plugin gives."""
    told = {"enabled": True, "servers": ["127.0.0.1"], "port": port, **options}
    return reverse_dns.enrich(rows, EnrichContext("agent", "connect", "here", options=told))[
        "remote_name"
    ].to_pylist()  # type: ignore[no-any-return]


def test_names_come_from_the_second_time_on(server: int) -> None:
    """IPv4 and IPv6: not known in the first batch, named later; no name and no address are empty, not missing."""
    rows = batch(NAMED, "", NAMED6, NAMELESS, NAMED)
    assert names(rows, server, seconds=100) == [None, b"", None, None, None]
    end = time.monotonic() + PATIENCE
    while None in (found := names(rows, server, seconds=100)):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert found == [b"db.example", b"", b"db6.example", b"", b"db.example"]


def test_a_batch_may_wait_a_moment(server: int) -> None:
    """With `wait_seconds` the first batch has the names already; an address that ends with zeros is asked for whole."""
    assert names(batch(NAMED, "2001:db8::"), server, wait_seconds=1) == [b"db.example", b""]


def test_a_server_that_does_not_answer_holds_nothing_up() -> None:
    """A silent server: names stay unknown, the queue is bounded, and what became of the questions is counted."""
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port, rows = silent.getsockname()[1], batch(*[f"198.51.100.{n}" for n in range(50)])
        before = {outcome: count(outcome) for outcome in ("failed", "queue_full")}
        options = {"threads": 1, "waiting": 4, "timeout_seconds": 0.1}
        assert names(rows, port, **options) == [None] * 50
        assert count("queue_full") - before["queue_full"] >= 45
        end = time.monotonic() + PATIENCE
        while count("failed") - before["failed"] < 4:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert names(rows, port, **options) == [None] * 50


def count(outcome: str) -> float:
    """How many questions ended so."""
    return float(ANSWERS.labels("reverse_dns", outcome)._value.get())


def test_without_it_the_column_is_empty_and_nothing_is_missing() -> None:
    """Off, the default: no question is asked, the column is empty, and `quality` does not speak of it."""
    plugins = PluginManager.discover(["connect"])
    schema = plugins.schemas()["connect"].agent
    given = pa.record_batch(
        [pa.array([0], pa.uint64()), *batch(NAMED).columns], names=["quality", "remote_address"]
    )
    assert reverse_dns.enrich(given, EnrichContext("agent", "connect", "here")) == {}
    (row,) = conform(given, {}, schema, []).to_pylist()
    assert (row["remote_name"], row["tags"]) == (b"", [])
    assert "user_missing" in row["quality"]
    assert {"remote_name_missing", "tags_missing"} & set(row["quality"]) == set()


def test_options_are_checked() -> None:
    """An unknown option and a value out of bounds are named, with what is allowed."""
    plugins = PluginManager.discover([])
    with pytest.raises(
        ConfigError,
        match=r"unknown key options\.reverse_dns\.enable .*: did you mean enabled",
    ):
        plugins.check_options("reverse_dns", {"enable": True})
    with pytest.raises(
        ConfigError, match=r"options\.reverse_dns\.wait_seconds = 5 .*: must be <= 1"
    ):
        plugins.check_options("reverse_dns", {"wait_seconds": 5})
