"""Addresses as people write them: `host:port`, `[::1]:port`, or `unix:/path`."""

import ipaddress
import re

from attrs import frozen

from infrasight_core.errors import ConfigError


@frozen
class Address:
    """Where something listens.

    Attributes:
        host: A name or an IP address without brackets; a socket's path for `unix:`.
        port: 0 to 65535, where 0 lets the kernel choose; -1 for `unix:`.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `host:port`, `[IPv6]:port` or `unix:/path`. Raises ConfigError."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(text.removeprefix("unix:"), -1)
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
        if match is None or int(match[3]) > 65535:
            raise ConfigError(f"address {text!r}: write host:port, [IPv6]:port or unix:/path")
        return cls(match[1] or match[2], int(match[3]))

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return self.port < 0

    @property
    def is_loopback(self) -> bool:
        """Whether nothing that is sent there can leave the machine."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name: it may lead anywhere
            return False

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
