"""Holds how to reach another process; settings and commands use it without importing gRPC."""

from pathlib import Path

from attrs import frozen

from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback
from infrasight_core.net.tokens import METADATA_KEY, SCHEME, read_token


@frozen
class Peer:
    """Another process and how to reach it.

    Attributes:
        address: Its address, as `host:port`, `[IPv6]:port` or `unix:/path`.
        tls: The files for mutual TLS.
        plaintext: Whether to connect without TLS over the network, or over loopback to whichever
            process listens there.
        token_file: A file with the token that proves who this process is, for loopback without TLS.
        server_user: The user, by name or number, who may run the process at an address of this
            machine, besides root and the own user.
    """

    address: str
    tls: TlsFiles | None = None
    plaintext: bool = False
    token_file: Path | None = None
    server_user: str = ""

    def require_tls_or_loopback(self) -> None:
        """Rejects settings with which events or a token would travel in plaintext by accident.

        See also `infrasight_core.net.tls.require_tls_or_loopback`.

        Raises:
            ConfigError: The combination of settings is not safe.
        """
        require_tls_or_loopback(self.address, self.tls, self.plaintext)
        if self.token_file is None:
            return
        address = Address.parse(self.address)
        if not address.is_loopback_port or self.tls is not None or self.plaintext:
            raise ConfigError(
                f"token_file: a token is for a loopback port without TLS, not for {address} or "
                "together with TLS or plaintext; remove one of them"
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of every call: the token, if there is one. Raises ConfigError."""
        if self.token_file is None:
            return ()
        return ((METADATA_KEY, SCHEME + read_token(self.token_file)),)
