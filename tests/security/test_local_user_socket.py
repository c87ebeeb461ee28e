"""Attacks of a local user on the server's socket, and on its port on loopback."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from infrasight.v1.stream_pb2 import QueryRequest, StreamRequest, WatchRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_server.server import Server
from infrasight_server.settings import ServerSettings
from infrasight_testbed.execve_batches import batch, hello, plugins, table
from infrasight_testbed.local_user import LocalUser, open_folder
from infrasight_testbed.ports import free_port
from infrasight_testbed.server_thread import running_server
from infrasight_testbed.system import BIN, running_system

GROUP = "daemon"
GROUP_ID = 1
OUTSIDER = LocalUser()
MEMBER = LocalUser(65533, groups=(GROUP_ID,))
AGENT_TOKEN = "0123456789abcdef" * 4
READER_TOKEN = "fedcba9876543210" * 4
FLOOD = """
import time
connections = []
for number in range(200):
    connection = connect(arguments)
    connection.setblocking(False)
    connections.append(connection)

def is_open(connection):
    try:
        return connection.recv(65536) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False

# The server decides a connection at a time: each closed one is noticed sooner or later.
deadline = time.monotonic() + 60
while (held := sum(map(is_open, connections))) > 32 and time.monotonic() < deadline:
    time.sleep(0.05)
report(held)
sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with open_folder() as created:
        yield created


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server on a socket of a group with one member."""
    settings = ServerSettings(
        listen=f"unix:{folder}/run/s",
        socket_group=GROUP,
        status_listen="127.0.0.1:0",
        data=folder / "data",
    )
    with running_server(settings, plugins()) as running:
        yield running


@pytest.fixture
def port(folder: Path) -> Iterator[Server]:
    """A server on a port of loopback, with the tokens of one agent and one reader."""
    tokens = folder / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"agent node-a {AGENT_TOKEN}\nreader alice {READER_TOKEN}\n")
    settings = ServerSettings(
        listen="127.0.0.1:0", tokens=tokens, status_listen="127.0.0.1:0", data=folder / "data"
    )
    with running_server(settings, plugins()) as running:
        yield running


class Client:
    """Calls a server and reports how each call ends, as the name of its status code."""

    def __init__(self, address: str, token: str = "") -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def query(self) -> str:
        """Reads the events."""
        with grpc.insecure_channel(self._address) as channel:
            request = QueryRequest(sql="SELECT count() AS n FROM execve_events")
            stub = EventServiceStub(channel)
            return _end_of(stub.Query(request, timeout=60, metadata=self._metadata))

    def watch(self) -> str:
        """Watches the events, until it is clear whether it may."""
        with grpc.insecure_channel(self._address) as channel:
            stub = EventServiceStub(channel)
            call = stub.Watch(WatchRequest(), timeout=60, metadata=self._metadata)
            if call.initial_metadata() is not None and call.is_active():
                call.cancel()
                return "OK"
            return str(call.code().name)

    def write(self, node: str = "node-a") -> str:
        """Writes an event of a node."""
        requests = [
            StreamRequest(hello=hello(node=node)),
            StreamRequest(batch=batch("forged", table(1))),
        ]
        with grpc.insecure_channel(self._address) as channel:
            stub = EventServiceStub(channel)
            return _end_of(stub.Stream(iter(requests), timeout=60, metadata=self._metadata))


def _end_of(call: grpc.Call) -> str:
    try:
        for _ in call:  # type: ignore[attr-defined]
            continue
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_other_user_cannot_connect_to_a_server_as_it_is_started(folder: Path) -> None:
    """Another user connects where agents and readers do; the kernel rejects it."""
    with running_system(folder) as system:
        system.start_server()
        assert OUTSIDER.attempt("connect(arguments)", system.address) == "EACCES"
        assert system.query("SELECT 1 AS one") == [{"one": 1}]


def test_other_user_is_rejected_also_where_the_modes_are_opened(
    server: Server, folder: Path
) -> None:
    """Somebody opens socket and folder to all; another user's calls still never arrive."""
    (folder / "run").chmod(0o755)
    (folder / "run/s").chmod(0o666)
    with OUTSIDER.tunnel(server.address) as address:
        client = Client(address)
        assert (client.query(), client.watch(), client.write()) == ("UNAVAILABLE",) * 3
    assert Client(server.address).query() == "OK"


def test_member_of_the_group_reads_and_cannot_write(server: Server) -> None:
    """A reader of the socket's group sends events as an agent; the role is missing."""
    with MEMBER.tunnel(server.address) as address:
        client = Client(address)
        assert client.write() == "PERMISSION_DENIED"
        assert (client.query(), client.watch()) == ("OK", "OK")
    assert Client(server.address).write() == "OK"


def test_private_socket_behind_the_relay_cannot_be_reached(server: Server, folder: Path) -> None:
    """A member of the group bypasses the relay by the socket behind it; it may not enter there."""
    inner = f"unix:{folder}/run/.s/grpc"
    assert MEMBER.attempt("connect(arguments)", inner) == "EACCES"
    assert MEMBER.attempt("connect(arguments)", server.address) == "done"


def test_member_of_the_group_cannot_replace_the_socket(server: Server, folder: Path) -> None:
    """A reader of the group removes or renames the socket, to listen there instead; it may not."""
    path = f"{folder}/run/s"
    for action in ("os.unlink(arguments)", "os.rename(arguments, arguments + '2')"):
        assert MEMBER.attempt(action, path) == "EACCES"
    assert MEMBER.attempt("listen(f'unix:{arguments}2')", path) == "EACCES"
    assert Client(server.address).query() == "OK"


def test_idle_connections_of_a_user_are_bounded(server: Server) -> None:
    """A reader opens 200 connections; at most 32 stay, and others are served meanwhile."""
    flood = MEMBER.start(FLOOD, server.address)
    assert flood.stdout is not None
    assert 0 < int(flood.stdout.readline()) <= 32  # one that another test left counts as well
    other = LocalUser(65532, groups=(GROUP_ID,))
    with other.tunnel(server.address) as address:
        assert Client(address).query() == "OK"
    assert Client(server.address).write() == "OK"
    flood.communicate(timeout=120)


def test_server_rejects_a_folder_where_others_could_replace_its_socket(folder: Path) -> None:
    """Another user may write to the folder of the socket; the server does not start there."""
    run = folder / "run"
    run.mkdir()
    run.chmod(0o777)
    done = start(f"--listen=unix:{run}/s", f"--data={folder}/data")
    assert done.returncode == 1
    assert f"other users may write to the folder {run}" in done.stderr


def test_server_rejects_a_port_that_every_user_reaches(folder: Path) -> None:
    """A port on loopback without TLS and tokens lets every user write and read; it is rejected."""
    done = start(f"--listen=127.0.0.1:{free_port()}", f"--data={folder}/data")
    assert done.returncode == 1
    assert "every user of this machine could write and read" in done.stderr
    assert "tokens" in done.stderr


def start(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs a server that must not start."""
    command = [str(BIN / "infrasight-server"), *options, "--status-listen=127.0.0.1:0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_caller_without_a_token_can_do_nothing(port: Server) -> None:
    """A local user calls the port without a token, or with a wrong one; all is rejected."""
    for client in (Client(port.address), Client(port.address, "0" * 64)):
        assert (client.query(), client.watch(), client.write()) == ("UNAUTHENTICATED",) * 3


def test_token_permits_no_more_than_its_line(port: Server) -> None:
    """A reader writes, an agent reads or writes for another node; their tokens permit neither."""
    reader = Client(port.address, READER_TOKEN)
    assert (reader.write(), reader.query()) == ("PERMISSION_DENIED", "OK")
    agent = Client(port.address, AGENT_TOKEN)
    assert (agent.query(), agent.watch()) == ("PERMISSION_DENIED",) * 2
    assert (agent.write("node-b"), agent.write("node-a")) == ("PERMISSION_DENIED", "OK")


def test_token_that_is_withdrawn_is_rejected_at_once(port: Server, folder: Path) -> None:
    """A local user has a token that was removed from the file; the running server rejects it."""
    assert Client(port.address, READER_TOKEN).query() == "OK"
    (folder / "tokens").write_text(f"agent node-a {AGENT_TOKEN}\n")
    assert Client(port.address, READER_TOKEN).query() == "UNAUTHENTICATED"
    (folder / "tokens").chmod(0o644)
    assert Client(port.address, AGENT_TOKEN).write() == "UNAUTHENTICATED"


def test_tokens_that_others_may_read_are_not_used(folder: Path) -> None:
    """A local user may read the file of tokens; the server does not start with it, nor shows it."""
    tokens = folder / "tokens"
    tokens.write_text(f"agents all {AGENT_TOKEN}\n")
    tokens.chmod(0o644)
    listen = f"--listen=127.0.0.1:{free_port()}"
    done = start(listen, f"--tokens={tokens}", f"--data={folder}/data")
    assert done.returncode == 1
    assert f"other users may access {tokens}" in done.stderr
    assert AGENT_TOKEN not in done.stderr
