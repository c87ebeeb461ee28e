"""The probes connect and accept and Unix sockets: names as the kernel has them, byte by byte."""

import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import infrasight_probe_net.connect
import pytest
from infrasight_core.kernel.filters import Filters
from infrasight_recording import Recording, recording
from infrasight_testbed.addresses import inet, unix
from infrasight_testbed.socket_rows import Row, assert_fields, rows_of
from infrasight_testbed.syscalls import call, in_child

UNIX = socket.AF_UNIX
STREAM = socket.SOCK_STREAM
DGRAM = socket.SOCK_DGRAM
SEQPACKET = socket.SOCK_SEQPACKET
TYPES: dict[int, bytes] = {STREAM: b"stream", DGRAM: b"dgram", SEQPACKET: b"seqpacket"}
EVERY_BYTE = bytes(byte for byte in range(1, 256) if byte != ord("/"))
USER_MEMORY = ["unix_path_user_memory"]
MISSING = ["unix_path_missing"]
NO_ADDRESS = {
    "local_address": bytes(16),
    "remote_address": bytes(16),
    "local_port": 0,
    "remote_port": 0,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name that every user may use."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def record(recorded: Recording, probe: str, work: Callable[[], Any], uid: int = 0) -> list[Row]:
    """Returns a child's rows; asserts that each is of a Unix socket without an IP address."""
    pid, _ = in_child(work, uid)
    recorded.wait(probe)
    rows = rows_of(recorded, pid, uid)
    for row in rows:
        assert_fields(
            row,
            NO_ADDRESS
            | {"family": UNIX, "family_name": b"unix", "protocol": 0, "protocol_name": b"0"},
        )
    return rows


def names(folder: Path) -> list[bytes]:
    """Names of every kind: paths up to the longest, any byte, and abstract names."""
    base = bytes(folder)
    mark = os.urandom(8)
    return [
        base + b"/path",
        (base + b"/" + b"l" * 108)[:108],
        base + b"/" + EVERY_BYTE[:80],
        base + b"/" + EVERY_BYTE[-80:],
        b"\0" + mark,
        b"\0" + mark + b"\0" + b"a\0",
        b"\0" + mark + EVERY_BYTE[-99:],
    ]


@pytest.mark.parametrize("kind", [STREAM, DGRAM, SEQPACKET])
def test_every_name(connects: Recording, folder: Path, kind: int) -> None:
    """Paths up to 108 bytes and abstract names with NULs are exact, from the kernel's socket."""
    for number, name in enumerate(names(folder)):
        with socket.socket(UNIX, kind) as server, socket.socket(UNIX, kind) as client:
            address = unix(name)[:110]  # Python's bind allows 107 bytes
            assert call("bind", server.fileno(), address, len(address)) == 0
            if kind != DGRAM:
                server.listen()
            own = b"\0" + os.urandom(9) if number % 2 else b""
            if own:
                client.bind(own)
            connect = partial(call, "connect", client.fileno(), address, len(address))
            (row,) = record(connects, "connect", connect)
            assert_fields(
                row,
                {
                    "unix_path": name,
                    "unix_client_path": own,
                    "return_code": 0,
                    "quality": [],
                    "fd": client.fileno(),
                },
            )
            assert_fields(
                row,
                {
                    "socket_type": kind,
                    "type_name": TYPES[kind],
                    "connection_id": 0,
                    "stage": b"call",
                },
            )


def test_every_failing_call_is_recorded(connects: Recording, folder: Path) -> None:
    """A failed call has the name from the caller's memory and a flag, or a flag alone."""
    base = bytes(folder)
    missing = unix(bytes(folder) + b"/missing")
    with (
        socket.socket(UNIX) as full,
        socket.socket(UNIX) as gone,
        socket.socket(UNIX) as client,
        socket.socket(UNIX) as first,
    ):
        full.bind(base + b"/full")
        full.listen(0)
        first.connect(base + b"/full")
        gone.bind(base + b"/gone")
        client.setblocking(False)
        (folder / "file").touch()
        dgram = socket.socket(UNIX, DGRAM)
        dgram.bind(base + b"/dgram")
        cases: list[tuple[bytes | int, int, str, bytes, list[str]]] = [
            (missing, len(missing), "ENOENT", base + b"/missing", USER_MEMORY),
            (missing, len(missing) - 1, "ENOENT", base + b"/missing", USER_MEMORY),
            (missing + b"behind", len(missing) + 6, "ENOENT", base + b"/missing", USER_MEMORY),
            (unix(base + b"/gone"), len(base) + 8, "ECONNREFUSED", base + b"/gone", USER_MEMORY),
            (unix(base + b"/file"), len(base) + 8, "ECONNREFUSED", base + b"/file", USER_MEMORY),
            (unix(base + b"/full"), len(base) + 8, "EAGAIN", base + b"/full", USER_MEMORY),
            (unix(base + b"/dgram"), len(base) + 9, "EPROTOTYPE", base + b"/dgram", USER_MEMORY),
            (unix(b"\0nobody\0here"), 14, "ECONNREFUSED", b"\0nobody\0here", USER_MEMORY),
            (8, 20, "EFAULT", b"", MISSING),
            (unix(b"x"), 1, "EINVAL", b"", MISSING),
            (unix(b"x" * 120), 122, "EINVAL", b"", ["unix_path_missing", *USER_MEMORY]),
        ]
        made = [(client.fileno(), address, length) for address, length, *_ in cases]
        rows = record(
            connects, "connect", lambda: [call("connect", *arguments) for arguments in made]
        )
        dgram.close()
    assert len(rows) == len(cases)
    for row, (_, _, error, path, quality) in zip(rows, cases, strict=True):
        assert_fields(
            row, {"error": error, "unix_path": path, "quality": quality, "in_progress": False}
        )


def test_refused_calls_of_an_ordinary_user_are_recorded(connects: Recording, folder: Path) -> None:
    """EACCES of a user who is not root and may not write to the socket."""
    with socket.socket(UNIX) as server, socket.socket(UNIX) as client:
        server.bind(bytes(folder / "closed"))
        (folder / "closed").chmod(0o600)
        server.listen()
        address = unix(bytes(folder / "closed"))
        (row,) = record(
            connects,
            "connect",
            lambda: call("connect", client.fileno(), address, len(address)),
            65534,
        )
    assert_fields(
        row, {"error": "EACCES", "unix_path": bytes(folder / "closed"), "quality": USER_MEMORY}
    )


def test_another_family_s_address(connects: Recording) -> None:
    """An IP address given to a Unix socket is EINVAL; the row has it from the caller's memory."""
    with socket.socket(UNIX) as client:
        pid, _ = in_child(lambda: call("connect", client.fileno(), inet("10.1.2.3", 99), 16))
    connects.wait("connect")
    (row,) = rows_of(connects, pid)
    assert_fields(
        row,
        {
            "error": "EINVAL",
            "family_name": b"unix",
            "remote_port": 99,
            "quality": ["remote_address_user_memory"],
        },
    )
    assert row["remote_address"][12:] == struct.pack("4B", 10, 1, 2, 3)


def test_filters_by_path(folder: Path) -> None:
    """A Unix socket below an excluded path is not recorded; others and IP sockets are."""
    with (
        recording(
            "connect", infrasight_probe_net.connect, filters=Filters(exclude_path=(f"{folder}/a",))
        ) as recorded,
        socket.socket(UNIX) as client,
        socket.socket() as tcp,
    ):
        made = [(client.fileno(), unix(bytes(folder) + name)) for name in (b"/a", b"/b")] + [
            (tcp.fileno(), inet("127.0.0.1", 1))
        ]
        pid, _ = in_child(
            lambda: [call("connect", fd, address, len(address)) for fd, address in made]
        )
    assert [row["unix_path"] for row in rows_of(recorded, pid)] == [bytes(folder) + b"/b", b""]


@pytest.mark.parametrize("kind", [STREAM, SEQPACKET])
def test_accepting_every_name(accepts: Recording, folder: Path, kind: int) -> None:
    """The row has the listening socket's name, and the connecting socket's name if it is bound."""
    for name in names(folder):
        own = b"\0" + os.urandom(9)
        with (
            socket.socket(UNIX, kind) as server,
            socket.socket(UNIX, kind) as bound,
            socket.socket(UNIX, kind) as nameless,
        ):
            address = unix(name)[:110]  # Python's bind allows 107 bytes
            assert call("bind", server.fileno(), address, len(address)) == 0
            server.listen()
            server.setblocking(False)
            bound.bind(own)
            for client in (bound, nameless):
                assert call("connect", client.fileno(), address, len(address)) == 0
            fd = server.fileno()
            rows = record(accepts, "accept", lambda: [call("accept", fd, 0, 0) for _ in range(3)])  # noqa: B023
        assert [row["error"] for row in rows] == ["", "", "EAGAIN"]
        assert [row["unix_client_path"] for row in rows] == [own, b"", b""]
        for row in rows:
            assert_fields(
                row,
                {
                    "unix_path": name,
                    "socket_type": kind,
                    "type_name": TYPES[kind],
                    "listen_fd": fd,
                    "quality": [],
                },
            )
            assert row["fd"] == max(row["return_code"], -1)
