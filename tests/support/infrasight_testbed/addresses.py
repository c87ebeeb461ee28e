"""Socket addresses as system calls take them, and as columns hold them."""

import socket
import struct


def inet(host: str, port: int) -> bytes:
    """A `struct sockaddr_in`."""
    return (
        struct.pack("=H", socket.AF_INET)
        + struct.pack("!H", port)
        + socket.inet_aton(host)
        + bytes(8)
    )


def inet6(host: str, port: int) -> bytes:
    """A `struct sockaddr_in6`."""
    return (
        struct.pack("=H", socket.AF_INET6)
        + struct.pack("!HI", port, 0)
        + socket.inet_pton(socket.AF_INET6, host)
        + bytes(4)
    )


def unix(path: bytes) -> bytes:
    """A `struct sockaddr_un` of a path, with a final NUL, or of an abstract name."""
    return struct.pack("=H", socket.AF_UNIX) + path + (b"" if path.startswith(b"\0") else b"\0")


def column(host: str) -> bytes:
    """An address as in columns: IPv6, or IPv4 as ::ffff:a.b.c.d; zeros for an empty one."""
    return socket.inet_pton(
        socket.AF_INET6, host if ":" in host else f"::ffff:{host}" if host else "::"
    )
