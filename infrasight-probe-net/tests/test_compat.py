"""Connects and accepts by 32-bit programs: known calls become exactly the expected rows."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from infrasight_recording import Recording
from infrasight_testbed.addresses import column, inet, inet6, unix
from infrasight_testbed.compat import (
    Call,
    CallResults,
    build,
    make_calls,
    one_file_at_a_time,
    only_x86,
)
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

pytestmark = [only_x86, one_file_at_a_time]
CONNECT = 3
ACCEPT = 5
ACCEPT4 = 18  # calls of socketcall(2)
FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
NOWHERE = {
    "family": 0,
    "local_address": bytes(16),
    "remote_address": bytes(16),
    "local_port": 0,
    "remote_port": 0,
}
NONE = {"x32": 0, "io_uring": 0}
ASKED = ["remote_address_user_memory"]


def made_by(
    recorded: Recording,
    probe: str,
    program: Path,
    calls: Sequence[Call],
    given: Sequence[socket.socket] = (),
) -> tuple[list[Row], CallResults]:
    """Makes the calls in a program; returns its rows by time, and asserts their headers."""
    made = make_calls(program, calls, given=[each.fileno() for each in given])
    recorded.wait(probe)
    assert recorded.recorder.untraced() == NONE
    rows = [
        row
        for delivery in list(recorded.deliveries)
        for row in delivery.batch.to_pylist()
        if row["pid"] == made.pid
    ]
    for row in rows:
        assert_fields(
            row,
            {
                "via": "compat",
                "tid": made.pid,
                "ppid": os.getpid(),
                "uid": 0,
                "comm": program.name.encode(),
            },
        )
        assert row["exe"] == bytes(program)
        assert row["duration_ns"] > 0
    return sorted(rows, key=lambda row: (row["time"], row.get("stage") == b"outcome")), made


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("through", ["connect", "socketcall"])
def test_every_way_to_connect(
    through: str,
    bits: int,
    connects: Recording,
    listener: socket.socket,
    closed: int,
    tmp_path: Path,
) -> None:
    """Each kind of socket and outcome, by the call's own number and through socketcall."""
    port = listener.getsockname()[1]
    name = b"\0" + os.urandom(9)
    tcp = socket.socket()
    refused = socket.socket()
    refused6 = socket.socket(INET6)
    udp = socket.socket(INET, UDP)
    named = socket.socket(socket.AF_UNIX)
    client = socket.socket(socket.AF_UNIX)
    other = socket.socket()
    named.bind(name)
    named.listen()
    cases: list[tuple[int, bytes | int, int, Row]] = [
        (
            tcp.fileno(),
            inet("127.0.0.1", port),
            16,
            socket_kind(INET, TCP) | remote_end("127.0.0.1", port),
        ),
        (
            refused.fileno(),
            inet("127.0.0.1", closed),
            16,
            socket_kind(INET, TCP)
            | remote_end("127.0.0.1", closed)
            | {"error": "ECONNREFUSED", "local_address": column("127.0.0.1")},
        ),
        (
            refused6.fileno(),
            inet6("::1", closed),
            28,
            socket_kind(INET6, TCP)
            | remote_end("::1", closed)
            | {"error": "ECONNREFUSED", "local_address": column("::1")},
        ),
        (
            udp.fileno(),
            inet("127.0.0.1", 9),
            16,
            socket_kind(INET, UDP) | remote_end("127.0.0.1", 9) | {"connection_id": 0},
        ),
        (
            client.fileno(),
            unix(name),
            2 + len(name),
            {"family_name": b"unix", "unix_path": name, "connection_id": 0},
        ),
        (
            other.fileno(),
            8,
            16,
            {"error": "EFAULT", "remote_port": 0, "quality": ["remote_address_missing"]},
        ),
        (
            9999,
            inet("127.0.0.1", port),
            16,
            NOWHERE | remote_end("127.0.0.1", port) | {"error": "EBADF"},
        ),
    ]
    calls: list[Call] = [
        ("connect", [fd, address, length])
        if through == "connect"
        else ("socketcall", [CONNECT, [fd, address, length]])
        for fd, address, length, _ in cases
    ]
    sockets = (tcp, refused, refused6, udp, named, client, other)
    try:
        rows, made = made_by(connects, "connect", build(tmp_path, bits), calls, sockets)
        own = {fd: each.getsockname() for each in (tcp, udp) for fd in [each.fileno()]}
    finally:
        for each in sockets:
            each.close()
    assert len(rows) == len(made.results) == len(cases)
    for row, (fd, _, _, wanted), result in zip(rows, cases, made.results, strict=True):
        common = {
            "return_code": result,
            "error": "",
            "fd": fd,
            "stage": b"call",
            "in_progress": False,
            "quality": [],
        }
        if fd == 9999:
            common["quality"] = ["socket_missing", *ASKED]
        assert_fields(row, common | wanted)
        if fd in own:
            assert_fields(
                row,
                {"local_address": column(own[fd][0]), "local_port": own[fd][1], "return_code": 0},
            )
    assert all(row["connection_id"] and row["local_port"] for row in rows[:3])


@pytest.mark.parametrize("bits", [32, 64])
def test_an_outcome_is_the_call_s(
    bits: int, connects: Recording, listener: socket.socket, closed: int, tmp_path: Path
) -> None:
    """Both rows of a non-blocking call have `via` compat, by number and through socketcall."""
    port = listener.getsockname()[1]
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.setblocking(False)
        calls: list[Call] = [
            ("connect", [first.fileno(), inet("127.0.0.1", port), 16]),
            ("socketcall", [CONNECT, [second.fileno(), inet("127.0.0.1", closed), 16]]),
        ]
        rows, _ = made_by(connects, "connect", build(tmp_path, bits), calls, (first, second))
    assert [row["stage"] for row in rows] == [b"call", b"outcome"] * 2
    assert [row["error"] for row in rows] == ["EINPROGRESS", "", "EINPROGRESS", "ECONNREFUSED"]
    for call, outcome, to in ((rows[0], rows[1], port), (rows[2], rows[3], closed)):
        assert (call["in_progress"], outcome["in_progress"], outcome["quality"]) == (
            True,
            False,
            [],
        )
        for row in (call, outcome):
            assert_fields(
                row,
                socket_kind(INET, TCP)
                | remote_end("127.0.0.1", to)
                | {"connection_id": call["connection_id"]},
            )
            assert row["local_port"] > 0


@pytest.mark.parametrize("bits", [32, 64])
def test_every_way_to_accept(bits: int, accepts: Recording, tmp_path: Path) -> None:
    """accept4 by its number, accept and accept4 through socketcall, successful and failing."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as idle:
        server.setblocking(False)
        port = server.getsockname()[1]
        fd = server.fileno()
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        local = socket_kind(INET, TCP) | {
            "local_address": column("127.0.0.1"),
            "local_port": port,
            "listen_fd": fd,
        }
        cases: list[tuple[Call, Row]] = [
            (
                ("accept4", [fd, 0, 0, FLAGS]),
                {"flags": FLAGS, "flag_names": [b"SOCK_NONBLOCK", b"SOCK_CLOEXEC"]},
            ),
            (("socketcall", [ACCEPT, [fd, 0, 0]]), {}),
            (
                ("socketcall", [ACCEPT4, [fd, 0, 0, socket.SOCK_CLOEXEC]]),
                {"flags": socket.SOCK_CLOEXEC},
            ),
            (("accept4", [fd, 0, 0, 0]), {"error": "EAGAIN"}),
            (("socketcall", [ACCEPT, [fd, 0, 0]]), {"error": "EAGAIN"}),
            (("socketcall", [ACCEPT4, [fd, 0, 0, 7]]), {"error": "EINVAL", "flags": 7}),
            (
                ("accept4", [idle.fileno(), 0, 0, 0]),
                {"error": "EINVAL", "listen_fd": idle.fileno(), "local_port": 0},
            ),
            (
                ("socketcall", [ACCEPT, [9999, 0, 0]]),
                NOWHERE | {"error": "EBADF", "listen_fd": 9999},
            ),
        ]
        rows, made = made_by(
            accepts, "accept", build(tmp_path, bits), [call for call, _ in cases], (server, idle)
        )
    assert len(rows) == len(made.results) == len(cases)
    for number, (row, (_, own), result) in enumerate(zip(rows, cases, made.results, strict=True)):
        end = clients[number].getsockname() if number < len(clients) else ("", 0)
        wanted: Row = local if own.get("error") not in ("EBADF", "EINVAL") or "flags" in own else {}
        wanted = wanted | {"return_code": result, "error": "", "fd": max(result, -1), "flags": 0}
        wanted |= remote_end(*end) | {
            "quality": ["socket_missing"] if own.get("error") == "EBADF" else []
        }
        assert_fields(row, wanted | own)
    for each in clients:
        each.close()


def test_arguments_that_cannot_be_read(
    connects: Recording, accepts: Recording, tmp_path: Path
) -> None:
    """A socketcall that fails with EFAULT has a row that flags its unknown fields."""
    program = build(tmp_path, 32)
    for recorded, probe, inner, missing in (
        (
            connects,
            "connect",
            CONNECT,
            ["entry_missing", "socket_missing", "remote_address_missing"],
        ),
        (accepts, "accept", ACCEPT, ["entry_missing", "socket_missing"]),
    ):
        made = make_calls(program, [("socketcall", [inner, 8])])
        recorded.wait(probe)
        (row,) = [
            row
            for each in list(recorded.deliveries)
            for row in each.batch.to_pylist()
            if row["pid"] == made.pid
        ]
        assert_fields(row, NOWHERE | {"via": "compat", "error": "EFAULT", "quality": missing})


def test_via_of_an_ordinary_call_is_syscall(
    connects: Recording, accepts: Recording, listener: socket.socket
) -> None:
    """`via` of a call that is neither of a 32-bit program nor of io_uring is `syscall`."""
    with socket.create_connection(listener.getsockname()):
        listener.accept()[0].close()
    for recorded, probe in ((connects, "connect"), (accepts, "accept")):
        recorded.wait(probe)
        rows = [
            row
            for each in list(recorded.deliveries)
            for row in each.batch.to_pylist()
            if row["pid"] == os.getpid()
        ]
        assert {row["via"] for row in rows} == {"syscall"}
