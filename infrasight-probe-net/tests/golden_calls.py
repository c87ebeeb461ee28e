"""The calls of the golden blocks; Debian's Python runs them, whose path is the same everywhere.

usage: golden_calls.py connect|accept [FD…]
"""

import socket
import sys

from infrasight_testbed.addresses import inet, inet6, unix
from infrasight_testbed.syscalls import call

PORT = 40404
CLOSED = 40405
NAME = b"\0infrasight-golden\xff"
ABSENT = 9999  # a descriptor


def connect() -> None:
    """IPv4, IPv6, rejected, non-blocking, UDP, Unix, a bad descriptor, unmapped memory."""
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_STREAM, inet("127.0.0.1", PORT)),
        (socket.AF_INET6, socket.SOCK_STREAM, inet6("::ffff:127.0.0.1", PORT)),
        (socket.AF_INET6, socket.SOCK_STREAM, inet6("::1", CLOSED)),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, inet("127.0.0.1", PORT)),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, inet("127.0.0.1", CLOSED)),
        (socket.AF_INET, socket.SOCK_DGRAM, inet("127.0.0.1", CLOSED)),
        (socket.AF_UNIX, socket.SOCK_STREAM, unix(NAME)),
        (socket.AF_UNIX, socket.SOCK_STREAM, unix(b"/no/such/socket")),
    ):
        call("connect", socket.socket(family, kind).detach(), address, len(address))
    call("connect", ABSENT, inet("127.0.0.1", PORT), 16)
    call("connect", socket.socket().detach(), 8, 16)


def accept(*descriptors: int) -> None:
    """What waits at the given sockets, the first one twice; no socket, no such descriptor."""
    call("accept4", descriptors[0], 0, 0, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    for descriptor in (*descriptors, 0, ABSENT):
        call("accept", descriptor, 0, 0)


if __name__ == "__main__":
    {"connect": connect, "accept": accept}[sys.argv[1]](*map(int, sys.argv[2:]))
