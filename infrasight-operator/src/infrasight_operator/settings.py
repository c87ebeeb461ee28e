"""The operator's settings."""

from attrs import field, frozen, validators
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.tls import ListenerTls, require_tls_or_loopback


@frozen
class OperatorSettings:
    """The operator's settings, from a file, the environment (`INFRASIGHT_OPERATOR_…`) and options.

    Options override the environment, which overrides the file.

    Attributes:
        namespace: The installation's namespace; empty selects the service account's, or
            KUBECONFIG's.
        listen: The `host:port` to listen on for agents.
        address: The `host:port` that agents connect to; empty selects `listen`.
        status_listen: The `host:port` that serves `/metrics`, `/healthz` and `/readyz`.
        tls: Certificate, key and CA for mutual TLS. Agents must present a certificate of that CA
            that names their node. Replaced files become active at once.
        plaintext: Listen without TLS even on an address that other machines can reach.
        stop_seconds: How long to wait for calls in progress when the operator stops.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    namespace: str = field(
        default="", validator=validators.matches_re(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?")
    )
    listen: str = "127.0.0.1:7446"
    address: str = ""
    status_listen: str = "127.0.0.1:7447"
    tls: ListenerTls | None = None
    plaintext: bool = False
    stop_seconds: float = field(default=5.0, validator=validators.ge(0))
    log_level: str = "info"

    def check(self) -> None:
        """Validates the settings that depend on each other.

        Raises:
            ConfigError: An address is a Unix socket, or TLS is missing where it is required.
        """
        for text in (self.listen, self.advertised_address):
            if Address.parse(text).is_unix:
                raise ConfigError(
                    f"address {text!r}: agents connect from other machines; use host:port"
                )
        require_tls_or_loopback(self.listen, self.tls, self.plaintext)

    @property
    def advertised_address(self) -> str:
        """The `host:port` that agents connect to."""
        return self.address or self.listen
