"""Accepts and connects through io_uring: known requests become exactly the expected rows."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import infrasight_probe_net.connect
import pytest
from infrasight_recording import Recording, recording
from infrasight_testbed.addresses import column, inet, inet6, unix
from infrasight_testbed.socket_rows import (
    INET,
    INET6,
    TCP,
    UDP,
    Row,
    assert_fields,
    remote_end,
    socket_kind,
)
from infrasight_testbed.system import until
from infrasight_testbed.uring import (
    ASYNC,
    FIXED,
    MULTISHOT,
    NEVER_TAKE,
    NOT_COMPLETED,
    SILENT,
    SQPOLL,
    Accept,
    AnyRequest,
    Connect,
    RequestResults,
    build,
    is_waiting,
    make_requests,
)

WAIT_SECONDS = 0.1  # for which a request waits at least
USER = 4242  # whom nothing else on the machine is
NAMELESS = {"user_missing", "group_name_missing"}  # of a user whom no database knows
FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
WAYS = pytest.mark.parametrize(
    ("setup", "how"), [(0, 0), (0, ASYNC), (SQPOLL, 0)], ids=["inline", "worker", "polled"]
)
NOWHERE = {
    "family": 0,
    "local_address": bytes(16),
    "remote_address": bytes(16),
    "local_port": 0,
    "remote_port": 0,
}
NO_SOCKET = ["socket_missing"]
ASKED = ["remote_address_user_memory"]
UNKNOWN_END = ["unix_client_path_missing", "remote_address_missing"]


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """The program that makes requests, where every user may run it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield build(Path(name).resolve())


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    """Sockets that are closed in the end."""
    kept: list[socket.socket] = []
    yield kept
    for each in kept:
        each.close()


@contextmanager
def once_waiting(program: Path, act: Callable[[], None]) -> Iterator[None]:
    """Acts WAIT_SECONDS after the program has begun to wait for the completion of its request."""

    def wait_and_act() -> None:
        until(lambda: is_waiting(program), "the program waits")
        threading.Event().wait(WAIT_SECONDS)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()


def made_by(
    recorded: Recording,
    probe: str,
    program: Path,
    requests: Sequence[AnyRequest],
    given: Sequence[socket.socket],
    setup: int = 0,
    completions: int = 0,
    least_rows: int | None = None,
) -> tuple[list[Row], RequestResults]:
    """Makes requests in a program; returns its rows by time, and asserts their headers.

    A worker of the kernel may complete a request as the program ends, or just after: waits for a
    row of each request, or for `least_rows`.
    """
    fds = [each.fileno() for each in given]
    made = make_requests(program, USER, requests, setup, completions, given=fds)
    least = len(requests) if least_rows is None else least_rows
    until(lambda: len(recorded.rows_of(made.pid)) >= least, f"{least} rows", 30)
    recorded.wait(probe)
    assert recorded.recorder.untraced() == {"x32": 0, "io_uring": 0}
    rows = recorded.rows_of(made.pid)
    header = {
        "via": "io_uring",
        "ppid": os.getpid(),
        "uid": USER,
        "gid": USER,
        "exe": bytes(program),
    }
    for row in rows:
        assert_fields(row, header)
        assert set(row["quality"]) >= NAMELESS
        row["quality"] = [flag for flag in row["quality"] if flag not in NAMELESS]
        assert row["duration_ns"] > 0 or "entry_missing" in row["quality"]
    return sorted(rows, key=lambda row: row["time"]), made


@WAYS
def test_every_way_to_connect(
    setup: int,
    how: int,
    program: Path,
    connects: Recording,
    listener: socket.socket,
    closed: int,
    clients: list[socket.socket],
) -> None:
    """Each kind of socket and outcome is one row, with the ends of the kernel's socket."""
    port = listener.getsockname()[1]
    name = b"\0" + os.urandom(9)
    udp = socket.socket(INET, UDP)
    tcp = socket.socket()
    nonblocking = socket.socket()
    refused = socket.socket()
    refused6 = socket.socket(INET6)
    named, client, unnamed = (socket.socket(socket.AF_UNIX) for _ in range(3))
    unused = socket.socket()
    clients += [unused, tcp, nonblocking, refused, refused6, udp, named, client, unnamed]
    nonblocking.setblocking(False)
    named.bind(name)
    named.listen()
    here = remote_end("127.0.0.1", port)
    there = remote_end("127.0.0.1", closed)
    unix_kind = {"family_name": b"unix", "type_name": b"stream", "remote_port": 0}
    cases: list[tuple[int, bytes, Row]] = [
        (tcp.fileno(), inet("127.0.0.1", port), socket_kind(INET, TCP) | here),
        (nonblocking.fileno(), inet("127.0.0.1", port), socket_kind(INET, TCP) | here),
        (
            refused.fileno(),
            inet("127.0.0.1", closed),
            socket_kind(INET, TCP) | there | {"error": "ECONNREFUSED"},
        ),
        (
            refused6.fileno(),
            inet6("::1", closed),
            socket_kind(INET6, TCP) | remote_end("::1", closed) | {"error": "ECONNREFUSED"},
        ),
        (udp.fileno(), inet("127.0.0.1", 9), socket_kind(INET, UDP) | remote_end("127.0.0.1", 9)),
        (client.fileno(), unix(name), unix_kind | {"unix_path": name}),
        (
            unnamed.fileno(),
            unix(b"/no/such/socket"),
            unix_kind
            | {
                "unix_path": b"/no/such/socket",
                "error": "ENOENT",
                "quality": ["unix_path_user_memory"],
            },
        ),
        (
            9999,
            inet("127.0.0.1", port),
            NOWHERE | here | {"error": "EBADF", "quality": NO_SOCKET + ASKED},
        ),
        (
            1,
            inet("127.0.0.1", port),
            NOWHERE | here | {"error": "ENOTSOCK", "quality": NO_SOCKET + ASKED},
        ),
        (
            unused.fileno(),
            b"\x02",
            socket_kind(INET, TCP)
            | remote_end("", 0)
            | {"error": "EINVAL", "quality": ["remote_address_missing"]},
        ),
    ]
    requests = [Connect(fd, address, sqe_flags=how) for fd, address, _ in cases]
    rows, made = made_by(connects, "connect", program, requests, clients, setup)
    assert len(rows) == len(cases)
    for row, (fd, _, wanted), result in zip(rows, cases, made.results, strict=True):
        common = {
            "return_code": result,
            "error": "",
            "fd": fd,
            "stage": b"call",
            "in_progress": False,
            "quality": [],
        }
        assert_fields(row, common | wanted)
        assert bool(row["connection_id"]) == (row in rows[:4])
    for row, each in zip((*rows[:2], rows[4]), (tcp, nonblocking, udp), strict=True):
        assert_fields(
            row,
            {
                "local_address": column(each.getsockname()[0]),
                "local_port": each.getsockname()[1],
                "return_code": 0,
            },
        )
    for row, host in zip(rows[2:4], ("127.0.0.1", "::1"), strict=True):
        assert (row["local_address"], row["local_port"] > 0) == (column(host), True)


def test_a_connection_that_takes_its_time(
    program: Path, connects: Recording, full: socket.socket, clients: list[socket.socket]
) -> None:
    """A delayed connection and one that times out have one row each, written when they end."""
    first = socket.socket()
    second = socket.socket()
    clients += [first, second]
    second.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    address = full.getsockname()
    (row,), _ = made_by(
        connects, "connect", program, [Connect(second.fileno(), inet(*address))], [second]
    )
    assert_fields(
        row,
        socket_kind(INET, TCP)
        | remote_end(*address)
        | {"error": "ETIMEDOUT", "quality": [], "stage": b"call", "in_progress": False},
    )
    assert (row["local_address"], row["local_port"] > 0) == (column("127.0.0.1"), True)
    with once_waiting(program, lambda: clients.append(full.accept()[0])):
        (row,), _ = made_by(
            connects, "connect", program, [Connect(first.fileno(), inet(*address))], [first]
        )
    assert_fields(
        row,
        socket_kind(INET, TCP)
        | remote_end(*address)
        | {"return_code": 0, "quality": [], "stage": b"call", "in_progress": False},
    )
    assert_fields(row, {"local_address": column("127.0.0.1"), "local_port": first.getsockname()[1]})
    assert row["duration_ns"] > WAIT_SECONDS * 10**9


def test_a_failure_that_was_not_seen(
    program: Path, full: socket.socket, clients: list[socket.socket]
) -> None:
    """Without the state change, the row of a request that timed out has the local port."""
    client = socket.socket()
    clients.append(client)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    request = Connect(client.fileno(), inet(*full.getsockname()))
    with recording("connect", infrasight_probe_net.connect) as recorded:
        attachments = recorded.recorder._recordings["connect"].loaded.descriptors
        state_changed = attachments.pop(-2)  # to sock:inet_sock_set_state
        with once_waiting(program, lambda: os.close(state_changed)):
            (row,), _ = made_by(recorded, "connect", program, [request], [client])
    assert_fields(row, {"error": "ETIMEDOUT", "quality": []})
    assert row["local_port"] == client.getsockname()[1] > 0


def test_connects_that_say_less(
    program: Path,
    connects: Recording,
    listener: socket.socket,
    closed: int,
    clients: list[socket.socket],
) -> None:
    """Requests without completion, rejected at once, with direct descriptors, or overflowing."""
    silent = socket.socket()
    lost = socket.socket()
    clients += [silent, lost]
    address = listener.getsockname()
    (row,), made = made_by(
        connects,
        "connect",
        program,
        [Connect(silent.fileno(), inet(*address), sqe_flags=SILENT)],
        clients,
        NEVER_TAKE,
    )
    assert_fields(
        row,
        socket_kind(INET, TCP)
        | remote_end(*address)
        | {"return_code": 0, "quality": [*ASKED, "return_code_missing"]},
    )
    assert made.results == [NOT_COMPLETED]
    requests = [
        Connect(9999, inet("127.0.0.1", closed), sqe_flags=FIXED),
        Connect(lost.fileno(), 8, 16),
    ]
    rows, _ = made_by(connects, "connect", program, requests, clients)
    by_error = {row["error"]: row for row in rows}
    assert_fields(
        by_error["EBADF"],
        {"fd": -1, "quality": NO_SOCKET + ASKED} | remote_end("127.0.0.1", closed),
    )
    assert "remote_address_missing" in by_error["EFAULT"]["quality"]
    assert len(rows) == 2
    rows, _ = made_by(
        connects,
        "connect",
        program,
        [Connect(fd, inet(*address)) for fd in range(900, 906)],
        [],
        NEVER_TAKE,
        2,
    )
    assert [(row["fd"], row["error"], row["remote_port"]) for row in rows] == [
        (fd, "EBADF", address[1]) for fd in range(900, 906)
    ]


@WAYS
def test_every_way_to_accept(
    setup: int,
    how: int,
    program: Path,
    accepts: Recording,
    listener: socket.socket,
    clients: list[socket.socket],
) -> None:
    """Accepts over IPv4, IPv6 and Unix, with direct descriptors, and the failing ones."""
    server6 = socket.create_server(("::1", 0), family=INET6)
    idle = socket.socket()
    name = b"\0" + os.urandom(9)
    own = b"\0" + os.urandom(9)
    named = socket.socket(socket.AF_UNIX)
    bound = socket.socket(socket.AF_UNIX)
    named.bind(name)
    named.listen()
    bound.bind(own)
    bound.connect(name)
    (local, fd), (local6, fd6) = (
        (each.getsockname(), each.fileno()) for each in (listener, server6)
    )
    first, third = (socket.create_connection(local) for _ in range(2))
    second = socket.create_connection(local6[:2])
    clients += [server6, idle, named, bound, first, second, third]
    here = socket_kind(INET, TCP) | {
        "local_address": column("127.0.0.1"),
        "local_port": local[1],
        "listen_fd": fd,
    }
    here6 = socket_kind(INET6, TCP) | {
        "local_address": column("::1"),
        "local_port": local6[1],
        "listen_fd": fd6,
    }
    cases: list[tuple[Accept, Row]] = [
        (
            Accept(fd, FLAGS),
            here | {"flags": FLAGS, "flag_names": [b"SOCK_NONBLOCK", b"SOCK_CLOEXEC"]},
        ),
        (Accept(fd6), here6 | remote_end(*second.getsockname()[:2])),
        (
            Accept(named.fileno()),
            {"family_name": b"unix", "unix_path": name, "unix_client_path": own},
        ),
        (Accept(idle.fileno()), {"error": "EINVAL", "family_name": b"inet", "local_port": 0}),
        (Accept(1), NOWHERE | {"error": "ENOTSOCK", "quality": NO_SOCKET}),
        (Accept(9999), NOWHERE | {"error": "EBADF", "quality": NO_SOCKET}),
        (
            Accept(0, sqe_flags=FIXED),
            NOWHERE | {"error": "EBADF", "quality": NO_SOCKET, "listen_fd": -1},
        ),
    ]
    requests = [Accept(each.fd, each.flags, sqe_flags=each.sqe_flags | how) for each, _ in cases]
    rows, made = made_by(accepts, "accept", program, requests, [listener, *clients], setup)
    assert len(rows) == len(cases)
    for row, (request, wanted), result in zip(rows, cases, made.results, strict=True):
        common = {
            "return_code": result,
            "error": "",
            "listen_fd": request.fd,
            "fd": max(result, -1),
            "flags": request.flags,
        }
        assert_fields(row, common | {"quality": []} | wanted)
    ends = [remote_end(*each.getsockname()) for each in (first, third)]
    assert_fields(rows[0], ends[0])
    (row,), _ = made_by(
        accepts, "accept", program, [Accept(fd, slot=3, sqe_flags=how)], [listener], setup
    )
    assert_fields(
        row, here | remote_end("", 0) | {"return_code": 0, "fd": -1, "quality": UNKNOWN_END}
    )


def test_an_accept_that_waits(
    program: Path, accepts: Recording, listener: socket.socket, clients: list[socket.socket]
) -> None:
    """A connection that comes later: the row is of the time from the request to it."""
    address = listener.getsockname()
    with once_waiting(program, lambda: clients.append(socket.create_connection(address))):
        (row,), _ = made_by(accepts, "accept", program, [Accept(listener.fileno())], [listener])
    assert_fields(
        row,
        socket_kind(INET, TCP)
        | remote_end(*clients[0].getsockname())
        | {"fd": row["return_code"], "quality": []},
    )
    assert row["duration_ns"] > WAIT_SECONDS * 10**9


def test_one_request_for_many(
    program: Path, accepts: Recording, listener: socket.socket, clients: list[socket.socket]
) -> None:
    """A multishot request has a row for each connection, timed from the end of the one before."""
    clients += [socket.create_connection(listener.getsockname()) for _ in range(3)]
    timer = threading.Timer(
        0.5, lambda: clients.append(socket.create_connection(listener.getsockname()))
    )
    timer.start()
    requests = [Accept(listener.fileno(), FLAGS, how=MULTISHOT)]
    rows, _ = made_by(accepts, "accept", program, requests, [listener], NEVER_TAKE, least_rows=3)
    timer.join()
    local = {
        "local_address": column("127.0.0.1"),
        "local_port": listener.getsockname()[1],
        "listen_fd": listener.fileno(),
    }
    rows = [row for row in rows if row["return_code"] >= 0]  # its end may be this process's too
    assert len(rows) >= 3
    for row, client in zip(rows, clients, strict=False):
        assert_fields(row, socket_kind(INET, TCP) | local | remote_end(*client.getsockname()))
        assert_fields(row, {"fd": row["return_code"], "flags": FLAGS, "quality": []})
    for before, after in pairwise(rows):
        assert (
            abs((after["time"] - before["time"]).total_seconds() * 10**9 - before["duration_ns"])
            < 10**6
        )
    assert len({row["fd"] for row in rows}) == len(rows)


def test_accepts_that_say_less(
    program: Path, accepts: Recording, listener: socket.socket, clients: list[socket.socket]
) -> None:
    """Requests without completion or rejected at once have rows that flag unknown fields."""
    clients.append(socket.create_connection(listener.getsockname()))
    (row,), made = made_by(
        accepts,
        "accept",
        program,
        [Accept(listener.fileno(), sqe_flags=SILENT)],
        [listener],
        NEVER_TAKE,
    )
    assert_fields(
        row,
        socket_kind(INET, TCP)
        | {"local_port": listener.getsockname()[1], "listen_fd": listener.fileno(), "fd": -1},
    )
    assert (row["quality"], made.results) == (
        [*UNKNOWN_END, "return_code_missing"],
        [NOT_COMPLETED],
    )
    (row,), _ = made_by(
        accepts, "accept", program, [Accept(listener.fileno(), flags=7)], [listener]
    )
    assert_fields(
        row, {"error": "EINVAL", "listen_fd": -1, "quality": ["entry_missing", "socket_missing"]}
    )
