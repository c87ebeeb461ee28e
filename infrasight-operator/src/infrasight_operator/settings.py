"""The operator's settings."""

from attrs import field, frozen, validators
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback


@frozen
class OperatorSettings:
    """What the command can be told, by file, environment (`INFRASIGHT_OPERATOR_…`) and options, the later winning.

    Attributes:
        namespace: The installation's namespace; empty for the service account's own, or KUBECONFIG's.
        listen: Where agents connect, `host:port`.
        address: What agents are told to connect to, `host:port`; empty for `listen`.
        status_listen: Where `/metrics`, `/healthz` and `/readyz` are, `host:port`.
        tls: Certificate, key and CA for mutual TLS; agents must show a certificate of that CA.
        plaintext: Listen without TLS even where others can reach it.
        stop_seconds: How long to wait at the end for what is under way.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    namespace: str = field(
        default="", validator=validators.matches_re(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?")
    )
    listen: str = "127.0.0.1:7446"
    address: str = ""
    status_listen: str = "127.0.0.1:7447"
    tls: TlsFiles | None = None
    plaintext: bool = False
    stop_seconds: float = field(default=5.0, validator=validators.ge(0))
    log_level: str = "info"

    def check(self) -> None:
        """Sees that it can be listened as is meant. Raises ConfigError."""
        for text in (self.listen, self.told):
            if Address.parse(text).is_unix:
                raise ConfigError(
                    f"address {text!r}: agents of other machines connect there; write host:port"
                )
        require_tls_or_loopback(self.listen, self.tls, self.plaintext)

    @property
    def told(self) -> str:
        """Where agents are told to connect."""
        return self.address or self.listen
