"""Holds how to reach another process; settings and commands use it without importing gRPC."""

from attrs import frozen

from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback


@frozen
class Peer:
    """Another process and how to reach it.

    Attributes:
        address: Its address, as `host:port`, `[IPv6]:port` or `unix:/path`.
        tls: The files for mutual TLS.
        plaintext: Whether to connect over the network without TLS.
    """

    address: str
    tls: TlsFiles | None = None
    plaintext: bool = False

    def require_tls_or_loopback(self) -> None:
        """See `infrasight_core.net.tls.require_tls_or_loopback`. Raises ConfigError."""
        require_tls_or_loopback(self.address, self.tls, self.plaintext)
