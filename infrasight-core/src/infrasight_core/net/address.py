"""Parses network addresses: `host:port`, `[IPv6]:port` or `unix:/path`."""

import ipaddress
import re

from attrs import frozen

from infrasight_core.errors import ConfigError

DEFAULT_SERVER = "unix:/run/infrasight/server.sock"
"""Where a server listens, and where agents and readers of the same machine look for it."""
_UNIX = "unix:"
_UNIX_PORT = -1
_LAST_PORT = 65535


@frozen
class Address:
    """The address of a listening socket.

    Attributes:
        host: A name, an IP address without brackets, or the path of a Unix socket.
        port: 0 to 65535, where 0 lets the kernel choose; -1 for a Unix socket.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parses an address. Raises ConfigError."""
        if text.startswith(_UNIX) and len(text) > len(_UNIX):
            return cls(text.removeprefix(_UNIX), _UNIX_PORT)
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > _LAST_PORT:
            raise ConfigError(f"address {text!r}: write host:port, [IPv6]:port or unix:/path")
        return cls(match[1] or match[2], int(match[3]))

    @property
    def is_unix(self) -> bool:
        """Whether it is the path of a Unix socket."""
        return self.port == _UNIX_PORT

    @property
    def is_loopback(self) -> bool:
        """Whether traffic to it cannot leave the machine."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name may resolve to any machine
            return False

    @property
    def is_loopback_port(self) -> bool:
        """Whether it is a port that every process of this machine reaches, and no other."""
        return self.is_loopback and not self.is_unix

    def __str__(self) -> str:
        if self.is_unix:
            return f"{_UNIX}{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
