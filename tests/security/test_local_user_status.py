"""Attacks of a local user on the status ports of agent and server."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from infrasight_core.net.status_server import StatusServer
from infrasight_testbed.local_user import LocalUser
from infrasight_testbed.system import until

OUTSIDER = LocalUser()
REASON = "cannot read /etc/infrasight/agent.key: it belongs to another customer"
GET = """
connection = connect(arguments[0])
connection.sendall(f"GET {arguments[1]} HTTP/1.0\\r\\n\\r\\n".encode())
answer = b""
while piece := connection.recv(65536):
    answer += piece
report(answer.decode())
"""
SLOW = """
connections = [connect(arguments) for number in range(300)]
for connection in connections:
    connection.sendall(b"GET /healthz HT")
report("open")
sys.stdin.read()
"""


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a process's status server that has a reason not to be ready."""
    server = StatusServer("127.0.0.1:0", lambda: (False, REASON))
    server.start()
    yield server.address
    server.stop()


def get(address: str, page: str) -> str:
    """A page as root gets it."""
    try:
        with urllib.request.urlopen(f"http://{address}/{page}", timeout=20) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read().decode())


def test_other_user_does_not_learn_why_a_process_is_not_ready(address: str) -> None:
    """Another user asks `/readyz`, whose reasons name files and nodes; it learns only the state."""
    answer = OUTSIDER.run(GET, [address, "/readyz"])
    assert answer.startswith("HTTP/1.0 503 ")
    assert answer.endswith("\r\n\r\nnot ready; the process's log has the reason\n")
    assert get(address, "readyz") == f"{REASON}\n"


def test_slow_clients_do_not_keep_others_from_a_status_port(address: str) -> None:
    """A user leaves 300 requests unfinished; threads stay few, and root is answered at once."""
    with OUTSIDER.start(SLOW, address) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == '"open"\n'
        assert get(address, "healthz") == "ok\n"
        # The thread of a connection that was replaced ends as soon as it runs.
        until(lambda: connection_threads() <= 32, "the threads of replaced connections have ended")
        slow.communicate(timeout=60)


def connection_threads() -> int:
    """Returns how many threads serve a connection to a status port."""
    return sum("process_request" in thread.name for thread in threading.enumerate())
