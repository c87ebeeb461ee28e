"""Expected fields of rows about sockets, and the rows of one process."""

import os
import socket
from pathlib import Path
from typing import Any

from infrasight_recording import Recording

from infrasight_testbed.addresses import column

Row = dict[str, Any]
INET = socket.AF_INET
INET6 = socket.AF_INET6
TCP = socket.SOCK_STREAM
UDP = socket.SOCK_DGRAM
_FAMILIES: dict[int, bytes] = {INET: b"inet", INET6: b"inet6"}


def socket_kind(family: int, type: int) -> Row:
    """The fields that describe an IP socket."""
    return {
        "family": family,
        "family_name": _FAMILIES[family],
        "socket_type": type,
        "type_name": b"stream" if type == TCP else b"dgram",
        "protocol": 6 if type == TCP else 17,
        "protocol_name": b"tcp" if type == TCP else b"udp",
        "unix_path": b"",
        "unix_client_path": b"",
    }


def remote_end(host: str, port: int) -> Row:
    """The fields of the remote end."""
    return {"remote_address": column(host), "remote_port": port}


def assert_fields(row: Row, expected: Row) -> None:
    """Asserts that the row has these values."""
    assert {name: row[name] for name in expected} == expected


def rows_of(recorded: Recording, pid: int, uid: int = 0) -> list[Row]:
    """A child's rows, by time; asserts that each has the child's header."""
    header = {
        "uid": uid,
        "gid": uid,
        "ppid": os.getpid(),
        "comm": Path("/proc/self/comm").read_bytes().rstrip(),
        "exe": bytes(Path("/proc/self/exe").resolve()),
    }
    rows = recorded.rows_of(pid)
    for row in rows:
        assert_fields(row, header)
        assert row["duration_ns"] > 0
    return rows
