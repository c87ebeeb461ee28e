"""The probe connect on the running kernel: known calls become exactly the expected rows."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.addresses import column, inet, inet6
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
from infrasight_testbed.syscalls import call

Record = Callable[..., tuple[list[Row], list[Row], Any]]
CLONE_NEWNET = 0x40000000
USER_MEMORY = "remote_address_user_memory"
MISSING = "remote_address_missing"


@pytest.mark.parametrize(
    ("family", "type", "bound", "host"),
    [
        (INET, TCP, "127.0.0.1", "127.0.0.1"),
        (INET, TCP, "0.0.0.0", "127.8.9.10"),
        (INET6, TCP, "::1", "::1"),
        (INET6, TCP, "::", "::ffff:127.0.0.1"),
        (INET, UDP, "127.0.0.1", "127.0.0.1"),
        (INET6, UDP, "::1", "::1"),
        (INET6, UDP, "::", "::ffff:127.0.0.1"),
    ],
)
def test_a_call_that_succeeds(
    family: int, type: int, bound: str, host: str, record: Record
) -> None:
    """TCP and UDP over IPv4, IPv6 and IPv4-mapped IPv6 have both ends of the kernel's socket."""
    with socket.socket(family, type) as server, socket.socket(family, type) as client:
        server.bind((bound, 0))
        if type == TCP:
            server.listen()
        port = server.getsockname()[1]
        address = (inet if family == INET else inet6)(host, port)
        (row,), outcomes, result = record(
            lambda: call("connect", client.fileno(), address, len(address))
        )
        own = client.getsockname()
        assert result == 0
        assert_fields(
            row,
            socket_kind(family, type)
            | remote_end(host, port)
            | {"fd": client.fileno(), "return_code": 0, "quality": []},
        )
        assert_fields(
            row, {"local_address": column(own[0]), "local_port": own[1], "in_progress": False}
        )
    assert outcomes == []
    assert bool(row["connection_id"]) == (type == TCP)


@pytest.mark.parametrize(
    ("family", "host"), [(INET, "127.0.0.1"), (INET6, "::1"), (INET6, "::ffff:127.0.0.1")]
)
def test_rejected_blocking_call_has_both_ends(
    family: int, host: str, closed: int, record: Record
) -> None:
    """A rejected blocking call has both ends, though the kernel has cleared the socket since."""
    address = (inet if family == INET else inet6)(host, closed)
    with socket.socket(family) as client:
        (row,), outcomes, _ = record(
            lambda: call("connect", client.fileno(), address, len(address))
        )
    assert_fields(
        row,
        socket_kind(family, TCP)
        | remote_end(host, closed)
        | {"error": "ECONNREFUSED", "quality": [], "in_progress": False},
    )
    assert (row["local_address"], outcomes) == (column(host), [])
    assert row["local_port"] > 0


def test_what_fails_before_the_kernel_takes_the_address(
    closed: int, listener: socket.socket, record: Record
) -> None:
    """A call that fails early has the address from the caller's memory with a flag, or a flag."""
    good = inet("127.0.0.1", closed)
    short6 = inet6("::1", closed)
    asked = remote_end("127.0.0.1", closed) | {"quality": [USER_MEMORY]}
    none = remote_end("", 0) | {"quality": [MISSING]}
    other = (99).to_bytes(2, "little") + bytes(14)
    with (
        socket.socket() as tcp,
        socket.socket(INET, UDP) as udp,
        socket.socket(INET6) as tcp6,
        Path(os.devnull).open() as file,
    ):
        no_socket = {
            "socket_type": 0,
            "family": 0,
            "family_name": b"",
            "type_name": b"",
            "protocol_name": b"",
        }
        cases: list[tuple[int, bytes | int, int, Row]] = [
            (
                9999,
                good,
                16,
                asked | no_socket | {"error": "EBADF", "quality": ["socket_missing", USER_MEMORY]},
            ),
            (
                -1,
                0,
                0,
                none | no_socket | {"error": "EBADF", "quality": ["socket_missing", MISSING]},
            ),
            (
                file.fileno(),
                good,
                16,
                asked
                | no_socket
                | {"error": "ENOTSOCK", "quality": ["socket_missing", USER_MEMORY]},
            ),
            (tcp.fileno(), 0, 16, none | {"error": "EFAULT"}),
            (tcp.fileno(), 8, 16, none | {"error": "EFAULT"}),
            (tcp.fileno(), good, 1, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, 4, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, -1, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, 4096, none | {"error": "EINVAL"}),
            (tcp.fileno(), good, 8, asked | {"error": "EINVAL"}),
            (tcp6.fileno(), short6, 20, none | {"error": "EINVAL"}),
            (tcp.fileno(), other, 16, none | {"error": "EAFNOSUPPORT"}),
            (udp.fileno(), other, 16, none | {"error": "EAFNOSUPPORT"}),
            (
                udp.fileno(),
                inet("127.255.255.255", 9),
                16,
                remote_end("127.255.255.255", 9) | {"error": "EACCES"},
            ),
            (
                listener.fileno(),
                good,
                16,
                asked | {"error": "EISCONN", "quality": []} | remote_end("", 0),
            ),
        ]
        rows, outcomes, _ = record(
            lambda: [call("connect", fd, address, length) for fd, address, length, _ in cases]
        )
    assert len(rows) == len(cases)
    for row, (fd, _, _, wanted) in zip(rows, cases, strict=True):
        assert_fields(row, wanted | {"fd": fd, "in_progress": False, "connection_id": 0})
    assert outcomes == []


def test_no_way_there(record: Record) -> None:
    """ENETUNREACH and EADDRNOTAVAIL in a network namespace where no interface is up."""
    addresses = [
        (INET, TCP, inet("192.0.2.1", 80)),
        (INET, UDP, inet("192.0.2.1", 80)),
        (INET6, TCP, inet6("2001:db8::1", 80)),
    ]
    errors = ["ENETUNREACH", "ENETUNREACH", "EADDRNOTAVAIL"]

    def work() -> list[int]:
        assert call("unshare", CLONE_NEWNET) == 0
        return [
            call("connect", socket.socket(f, t).detach(), address, len(address))
            for f, t, address in addresses
        ]

    rows, outcomes, _ = record(work)
    for row, error, (family, type, _) in zip(rows, errors, addresses, strict=True):
        assert_fields(
            row,
            socket_kind(family, type)
            | remote_end("192.0.2.1" if family == INET else "2001:db8::1", 80),
        )
        assert_fields(row, {"error": error, "quality": [USER_MEMORY]})
    assert outcomes == []


def test_a_connection_is_dissolved(listener: socket.socket, record: Record) -> None:
    """A call with AF_UNSPEC succeeds and leaves no remote end."""
    with socket.create_connection(listener.getsockname()) as tcp, socket.socket(INET, UDP) as udp:
        udp.connect(("127.0.0.1", 9))
        rows, _, results = record(
            lambda: [call("connect", s.fileno(), bytes(16), 16) for s in (tcp, udp)]
        )
    assert results == [0, 0]
    for row in rows:
        assert_fields(row, remote_end("", 0) | {"quality": [], "return_code": 0})


def test_address_of_another_family_is_flagged_missing(record: Record) -> None:
    """A netlink address has no column, so the row of a netlink socket flags it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as client:
        address = struct.pack("<HHII", socket.AF_NETLINK, 0, 0, 0)
        (row,), outcomes, result = record(
            lambda: call("connect", client.fileno(), address, len(address))
        )
    assert result == 0
    assert_fields(
        row,
        {"family": socket.AF_NETLINK, "family_name": b"netlink", "return_code": 0}
        | remote_end("", 0)
        | {"quality": [MISSING]},
    )
    assert outcomes == []
