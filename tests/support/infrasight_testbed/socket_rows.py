"""What tests of sockets share: what a row must say of one, and the rows of one process."""

import os
import socket
from pathlib import Path
from typing import Any

from infrasight_recording import Recording

from infrasight_testbed.addresses import column

Row = dict[str, Any]
INET, INET6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
_FAMILIES: dict[int, bytes] = {INET: b"inet", INET6: b"inet6"}


def kind(family: int, type: int) -> Row:
    """What the row says of the socket itself."""
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


def remote(host: str, port: int) -> Row:
    """The remote end of a row."""
    return {"remote_address": column(host), "remote_port": port}


def has(row: Row, wanted: Row) -> None:
    """The row has these values."""
    assert {name: row[name] for name in wanted} == wanted


def rows_of(kept: Recording, pid: int, uid: int = 0) -> list[Row]:
    """A child's rows in order, each with the header that the child must have."""
    found = [
        row
        for delivery in list(kept.deliveries)
        for row in delivery.batch.to_pylist()
        if row["pid"] == pid
    ]
    for row in found:
        has(
            row,
            {
                "uid": uid,
                "gid": uid,
                "ppid": os.getpid(),
                "comm": Path("/proc/self/comm").read_bytes().rstrip(),
            },
        )
        assert row["exe"] == bytes(Path("/proc/self/exe").resolve())
        assert row["duration_ns"] > 0
    return sorted(found, key=lambda row: row["time"])
