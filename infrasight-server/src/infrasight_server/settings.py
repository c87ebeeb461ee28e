"""The server's settings."""

from pathlib import Path
from typing import Any

from attrs import field, frozen, validators
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback

from infrasight_server.store.store import Store

EMBEDDED = "embedded"
_positive: Any = validators.gt(0)


@frozen
class ServerSettings:
    """What `infrasight-server` can be told, by file, environment (`INFRASIGHT_SERVER_…`) and options, the later winning.

    Attributes:
        listen: Where agents and readers connect, `host:port`.
        status_listen: Where `/metrics`, `/healthz` and `/readyz` are, `host:port`.
        data: The data directory; the embedded store is in its folder `store`.
        store: `embedded`, or a ClickHouse server's `http[s]://user@host:port/`.
        store_password: That user's password; better in the environment or in `store_password_file` than in a file here.
        store_password_file: A file with that password.
        database: The database of all tables.
        tls: Certificate, key and CA for mutual TLS; agents and readers must show a certificate of that CA.
        plaintext: Listen without TLS even where others can reach it.
        probes: Only these probes; empty for all that are installed.
        linger_seconds: A table's inserts begin so long after each other, at the earliest; batches wait together meanwhile.
        max_insert_rows: With as many rows an insert begins at once, and takes no more batches.
        max_batch_bytes: The longest batch that is taken.
        max_pending_bytes: What all batches together may hold until they are stored; then agents wait.
        ttl_days: After how many days rows are deleted; not set: never.
        query_seconds: How long one query may run.
        query_bytes: How large its answer may be.
        stop_seconds: How long to wait for the store when stopping; what is not stored by then stays with the agents.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    listen: str = "127.0.0.1:7443"
    status_listen: str = "127.0.0.1:7444"
    data: Path = Path("/var/lib/infrasight")
    store: str = EMBEDDED
    store_password: str = field(default="", repr=False)
    store_password_file: Path | None = None
    database: str = field(
        default="infrasight", validator=validators.matches_re(r"[A-Za-z_][A-Za-z0-9_]*")
    )
    tls: TlsFiles | None = None
    plaintext: bool = False
    probes: tuple[str, ...] = ()
    linger_seconds: float = field(default=0.5, validator=validators.ge(0))
    max_insert_rows: int = field(default=100_000, validator=_positive)
    max_batch_bytes: int = field(default=32 << 20, validator=[_positive, validators.le(48 << 20)])
    max_pending_bytes: int = field(default=256 << 20, validator=_positive)
    ttl_days: int | None = field(default=None, validator=validators.optional(_positive))
    query_seconds: float = field(default=60.0, validator=_positive)
    query_bytes: int = field(default=1 << 30, validator=_positive)
    stop_seconds: float = field(default=10.0, validator=validators.ge(0))
    log_level: str = "info"

    def check(self) -> None:
        """Sees that the addresses can be listened to as they are meant to. Raises ConfigError."""
        if Address.parse(self.listen).is_unix and self.tls is not None:
            raise ConfigError(
                f"listen: {self.listen} is a Unix socket, which needs no TLS; leave tls out"
            )
        require_tls_or_loopback(self.listen, self.tls, self.plaintext)

    def open_store(self) -> Store:
        """Opens the store that is configured.

        Raises:
            ConfigError: The store's URL or password file is not usable.
            StoreError: It cannot be opened.
        """
        if self.store == EMBEDDED:
            return Store.embedded(
                self.data / "store", self.database, self.query_seconds, self.query_bytes
            )
        password = self.store_password
        if self.store_password_file is not None:
            try:
                password = self.store_password_file.read_text().strip()
            except OSError as error:
                raise ConfigError(
                    f"store_password_file: cannot read {self.store_password_file}: {error.strerror}"
                ) from error
        return Store.at(self.store, self.database, password, self.query_seconds, self.query_bytes)
