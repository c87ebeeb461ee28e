"""The probe accept on the running kernel: known calls become exactly the expected rows."""

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import infrasight_probe_net.accept
import infrasight_probe_net.connect
import pytest
from infrasight_recording import Recording, recording
from infrasight_testbed.addresses import column
from infrasight_testbed.socket_rows import INET, INET6, Row, assert_fields, rows_of
from infrasight_testbed.syscalls import NUMBERS, call, in_child

Record = Callable[..., tuple[list[Row], Any]]
TCP = {
    "socket_type": 1,
    "type_name": b"stream",
    "protocol": 6,
    "protocol_name": b"tcp",
    "unix_path": b"",
    "unix_client_path": b"",
}
NO_SOCKET = {
    "family": 0,
    "family_name": b"",
    "socket_type": 0,
    "type_name": b"",
    "protocol_name": b"",
    "local_address": bytes(16),
    "local_port": 0,
    "quality": ["socket_missing"],
}


@pytest.fixture
def record(accepts: Recording) -> Record:
    """Does some work in a child; returns its rows, by time, and the work's result."""

    def record_child(work: Callable[[], Any]) -> tuple[list[Row], Any]:
        pid, result = in_child(work)
        accepts.wait("accept")
        return rows_of(accepts, pid), result

    return record_child


@pytest.fixture(autouse=True)
def does_not_block(listener: socket.socket) -> None:
    """Makes the listener non-blocking; a test may change it back."""
    listener.setblocking(False)


@pytest.mark.parametrize(
    ("family", "bound", "host"),
    [
        (INET, "127.0.0.1", "127.0.0.1"),
        (INET, "0.0.0.0", "127.8.9.10"),
        (INET6, "::1", "::1"),
        (INET6, "::", "::ffff:127.0.0.1"),
    ],
)
def test_a_connection(family: int, bound: str, host: str, record: Record) -> None:
    """Over IPv4, IPv6 and IPv4-mapped IPv6 both ends are those of the new connection."""
    with (
        socket.socket(family) as server,
        socket.socket(family) as first,
        socket.socket(family) as second,
    ):
        server.bind((bound, 0))
        server.listen()
        for client in (first, second):
            client.connect((host, server.getsockname()[1]))
        flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        rows, fds = record(
            lambda: [
                call("accept", server.fileno(), 0, 0),
                call("accept4", server.fileno(), 0, 0, flags),
            ]
        )
        for row, fd, client in zip(rows, fds, (first, second), strict=True):
            own = client.getsockname()
            assert_fields(
                row,
                TCP | {"family": family, "family_name": b"inet" if family == INET else b"inet6"},
            )
            assert_fields(
                row,
                {
                    "fd": fd,
                    "return_code": fd,
                    "error": "",
                    "listen_fd": server.fileno(),
                    "quality": [],
                },
            )
            assert_fields(
                row, {"local_address": column(host), "local_port": server.getsockname()[1]}
            )
            assert_fields(row, {"remote_address": column(own[0]), "remote_port": own[1]})
    assert [row["flags"] for row in rows] == [0, flags]
    assert [row["flag_names"] for row in rows] == [[], [b"SOCK_NONBLOCK", b"SOCK_CLOEXEC"]]


def test_every_failing_call_is_recorded(listener: socket.socket, record: Record) -> None:
    """If a failed call had a socket, its row has the local address and no remote one."""
    port = listener.getsockname()[1]
    fd = listener.fileno()
    local = TCP | {
        "family_name": b"inet",
        "local_address": column("127.0.0.1"),
        "local_port": port,
        "quality": [],
    }
    with (
        socket.socket() as idle,
        socket.socket(INET, socket.SOCK_DGRAM) as udp,
        Path(os.devnull).open() as file,
    ):
        nowhere = TCP | {
            "family_name": b"inet",
            "local_address": bytes(16),
            "local_port": 0,
            "quality": [],
        }
        cases: list[tuple[list[int], str, Row]] = [
            ([fd], "EAGAIN", local),
            ([fd, 7], "EINVAL", local | {"flags": 7, "flag_names": [b"0x7"]}),
            ([idle.fileno()], "EINVAL", nowhere),
            (
                [udp.fileno()],
                "ENOTSUP",
                {"type_name": b"dgram", "protocol_name": b"udp", "quality": []},
            ),
            ([file.fileno()], "ENOTSOCK", NO_SOCKET),
            ([9999], "EBADF", NO_SOCKET),
            ([-1], "EBADF", NO_SOCKET),
        ]
        rows, _ = record(
            lambda: [call("accept4", fd, 0, 0, *(flags or [0])) for (fd, *flags), _, _ in cases]
        )
    for row, ((listening, *_), error, wanted) in zip(rows, cases, strict=True):
        assert_fields(row, wanted | {"error": error, "listen_fd": listening, "fd": -1})
        assert_fields(row, {"remote_address": bytes(16), "remote_port": 0, "unix_client_path": b""})


def test_open_without_a_free_descriptor_is_recorded(
    listener: socket.socket, record: Record
) -> None:
    """EMFILE of a process that has no descriptor left."""
    with socket.create_connection(listener.getsockname()):

        def work() -> int:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
            return call("accept", listener.fileno(), 0, 0)

        (row,), _ = record(work)
    assert_fields(
        row,
        TCP
        | {
            "error": "EMFILE",
            "local_port": listener.getsockname()[1],
            "remote_port": 0,
            "fd": -1,
            "quality": [],
        },
    )


def test_a_call_that_waits_and_is_killed(
    listener: socket.socket, accepts: Recording, record: Record
) -> None:
    """The call of a process killed while it waits has the kernel's return code and its address."""
    listener.setblocking(True)

    def work() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(call("accept", listener.fileno(), 0, 0))
        while Path(f"/proc/{pid}/syscall").read_text().split()[0] != str(NUMBERS["accept"]):
            os.sched_yield()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return pid

    _, killed = record(work)
    (row,) = [
        row
        for delivery in list(accepts.deliveries)
        for row in delivery.batch.to_pylist()
        if row["pid"] == killed
    ]
    assert_fields(
        row,
        {
            "error": "ERESTARTSYS",
            "local_port": listener.getsockname()[1],
            "remote_port": 0,
            "quality": [],
        },
    )


def test_the_descriptor_is_replaced_while_it_waits(listener: socket.socket, record: Record) -> None:
    """When a thread replaces the listening descriptor, the row has the accepted connection."""
    listener.setblocking(True)

    def work() -> int:
        main = threading.get_native_id()

        def replace() -> None:
            while Path(f"/proc/self/task/{main}/syscall").read_text().split()[0] != str(
                NUMBERS["accept"]
            ):
                os.sched_yield()
            address = listener.getsockname()
            os.dup2(os.open(os.devnull, os.O_RDONLY), listener.fileno())
            socket.create_connection(address).detach()

        threading.Thread(target=replace).start()
        return call("accept", listener.fileno(), 0, 0)

    port = listener.getsockname()[1]
    (row,), fd = record(work)
    assert_fields(
        row,
        TCP | {"fd": fd, "local_port": port, "local_address": column("127.0.0.1"), "quality": []},
    )
    assert row["remote_port"] > 0


def test_a_storm() -> None:
    """Of 4,000 connections each has one row of connect and one of accept, with both ends."""
    processes = 8
    calls = 500
    acceptors = 2
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:

        def work() -> None:
            for number in range(processes + acceptors):
                if os.fork() == 0:
                    if number < acceptors:
                        for _ in range(processes * calls // acceptors):
                            server.accept()[0].close()
                    else:
                        for _ in range(calls):
                            with socket.create_connection(server.getsockname()) as client:
                                client.recv(1)
                    os._exit(0)
            for _ in range(processes + acceptors):
                assert os.wait()[1] == 0

        with (
            recording("connect", infrasight_probe_net.connect) as connects,
            recording("accept", infrasight_probe_net.accept) as accepts,
        ):
            in_child(work)
        port = server.getsockname()[1]
    for recorded in (connects, accepts):
        recorded.assert_accounted()
    connected = [
        row
        for row in connects.table.to_pylist()
        if row["remote_port"] == port and row["return_code"] == 0
    ]
    accepted = [
        row
        for row in accepts.table.to_pylist()
        if row["local_port"] == port and row["return_code"] >= 0
    ]
    assert len(connected) == len(accepted) == processes * calls
    assert sorted(row["local_port"] for row in connected) == sorted(
        row["remote_port"] for row in accepted
    )
    assert {row["stage"] for row in connected} == {b"call"}
