"""`/metrics`, `/healthz`, `/readyz`."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.status_server import StatusServer
from prometheus_client import Counter

STATE = [(False, "no stream to the server")]
SEEN = Counter("status_test", "Counted by a test.")


@pytest.fixture
def address() -> Iterator[str]:
    """A started status server."""
    server = StatusServer("127.0.0.1:0", lambda: STATE[-1])
    server.start()
    yield server.address
    server.stop()


def get(url: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_paths(address: str) -> None:
    """Health is always ok, readiness says why not, metrics hold what was counted, and other paths say what there is."""
    SEEN.inc(3)
    assert get(f"http://{address}/healthz") == (200, "ok\n")
    assert get(f"http://{address}/readyz") == (503, "no stream to the server\n")
    STATE.append((True, "streaming"))
    assert get(f"http://{address}/readyz?verbose") == (200, "streaming\n")
    assert "status_test_total 3.0" in get(f"http://{address}/metrics")[1]
    assert get(f"http://{address}/")[0] == 404


def test_an_address_in_use_is_named(address: str) -> None:
    """A second server on the same port is refused with the address and what to do."""
    with pytest.raises(
        ConfigError, match=f"{address}: cannot listen there: Address already in use"
    ):
        StatusServer(address, lambda: (True, "")).start()


def test_it_stops_and_starts_again() -> None:
    """After stop the port is free, on IPv6 as well."""
    server = StatusServer("[::1]:0", lambda: (True, "ok"))
    server.stop()
    server.start()
    address = server.address
    assert get(f"http://{address}/healthz")[0] == 200
    server.stop()
    again = StatusServer(address, lambda: (True, "ok"))
    again.start()
    again.stop()
