"""Reads from the kernel which users own this machine's TCP sockets."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"
_MAPPED = bytes(10) + b"\xff\xff"  # begins an IPv4 address that is written as an IPv6 address


@frozen
class Endpoint:
    """One end of a connection.

    Attributes:
        host: The address, as 4 or 16 bytes.
        port: The port.
    """

    host: bytes
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> "Endpoint":
        """Returns the endpoint of an IP address and a port. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return cls(_unmapped(socket.inet_pton(family, host)), port)

    @property
    def is_any_host(self) -> bool:
        """Whether the socket listens on every address."""
        return not any(self.host)


@frozen
class LocalSocket:
    """A TCP socket of this machine.

    Attributes:
        local: Its own end.
        remote: The other end; all zeros if it listens.
        is_listening: Whether it listens.
        uid: The user whose process opened it.
    """

    local: Endpoint
    remote: Endpoint
    is_listening: bool
    uid: int


def local_sockets() -> Iterator[LocalSocket]:
    """Yields the TCP sockets of this network namespace. Raises OSError or ValueError."""
    for table in _TABLES:
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            yield LocalSocket(
                _endpoint(fields[1]), _endpoint(fields[2]), fields[3] == _LISTEN, int(fields[7])
            )


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.partition(":")
    raw = bytes.fromhex(host)
    if sys.byteorder == "little":  # the kernel prints words of the host's order
        raw = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return Endpoint(_unmapped(raw), int(port, 16))


def _unmapped(host: bytes) -> bytes:
    return host.removeprefix(_MAPPED) if len(host) == 16 else host
