"""The status server: `/metrics`, `/healthz` and `/readyz`."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.status_server import StatusServer
from prometheus_client import Counter

COUNTER = Counter("status_test", "Counted by a test.")


class Readiness:
    """What a server's `/readyz` reports."""

    def __init__(self) -> None:
        self.state = (False, "no stream to the server")

    def __call__(self) -> tuple[bool, str]:
        """Returns whether the process is ready, and the reason."""
        return self.state


@pytest.fixture
def readiness() -> Readiness:
    """The readiness of the server at `address`."""
    return Readiness()


@pytest.fixture
def address(readiness: Readiness) -> Iterator[str]:
    """The address of a started server."""
    server = StatusServer("127.0.0.1:0", readiness)
    server.start()
    yield server.address
    server.stop()


def get(url: str) -> tuple[int, str]:
    """The status and the body of a response."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_status_server_answers_health_readiness_and_metrics(
    address: str, readiness: Readiness
) -> None:
    """Health is always ok, readiness has a reason, and other paths are not found."""
    COUNTER.inc(3)
    assert get(f"http://{address}/healthz") == (200, "ok\n")
    assert get(f"http://{address}/readyz") == (503, "no stream to the server\n")
    readiness.state = (True, "streaming")
    assert get(f"http://{address}/readyz?verbose") == (200, "streaming\n")
    assert "status_test_total 3.0" in get(f"http://{address}/metrics")[1]
    assert get(f"http://{address}/") == (404, "there are /metrics, /healthz and /readyz\n")


def test_status_server_names_an_address_in_use(address: str) -> None:
    """A second server on the same port fails with the address and the cause."""
    with pytest.raises(
        ConfigError, match=f"{address}: cannot listen there: Address already in use"
    ):
        StatusServer(address, lambda: (True, "")).start()


def test_status_server_frees_its_port_when_it_stops() -> None:
    """A second server can listen on the same port, also on IPv6."""
    server = StatusServer("[::1]:0", lambda: (True, "ok"))
    server.stop()
    server.start()
    address = server.address
    assert get(f"http://{address}/healthz")[0] == 200
    server.stop()
    second = StatusServer(address, lambda: (True, "ok"))
    second.start()
    second.stop()
