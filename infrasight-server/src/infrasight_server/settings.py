"""The server's settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen, validators
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import DEFAULT_SERVER, Address
from infrasight_core.net.tls import ListenerTls, require_tls_or_loopback
from infrasight_core.settings.private_files import make_private_folder

from infrasight_server.limits import BatchLimits
from infrasight_server.store import memory
from infrasight_server.store.query_limits import QueryLimits
from infrasight_server.store.ttl import Ttl

if TYPE_CHECKING:
    from infrasight_server.store.clickhouse import Store

EMBEDDED = "embedded"
_positive: Any = validators.gt(0)


@frozen
class ServerSettings:
    """The settings of `infrasight-server`.

    They come from a file, from environment variables (`INFRASIGHT_SERVER_…`) and from options of
    the command; variables override the file, options override variables.

    Attributes:
        listen: The address for agents and readers: `unix:/path` for the agents and readers of this
            machine, or `host:port`.
        socket_group: The group whose members may connect to the Unix socket and read. If the
            group does not exist, only root and the server's own user may connect.
        agent_users: Members of that group who may also write as agents, by name or number; root
            and the server's own user always may.
        tokens: A file with the tokens of agents and readers, for `host:port` on loopback without
            TLS. Each line is `ROLE NAME TOKEN`: the role is `agent`, with its node as name,
            `agents` or `reader`; instead of the token it may have `sha256:` and the token's hash.
            No other user may access the file.
        status_listen: The address of `/metrics`, `/healthz` and `/readyz`, `host:port`.
        data: The data directory; the embedded store uses its folder `store`.
        store: `embedded`, or the URL of a ClickHouse server, `http[s]://user@host:port/`.
        store_password: The password of the ClickHouse user; set it by environment variable or use
            `store_password_file`, so that no settings file contains it.
        store_password_file: A file that contains the password of the ClickHouse user.
        query_user: The user of the ClickHouse server who runs the queries of readers and needs
            `SELECT` and `dictGet` on the database alone; not set: the user of `store`.
        query_password: The password of `query_user`; set it by environment variable or use
            `query_password_file`.
        query_password_file: A file that contains the password of `query_user`.
        require_store_confinement: Whether the server refuses to start if the kernel cannot confine
            the embedded store's process to its data.
        database: The ClickHouse database of all tables.
        tls: Certificate, key and CA for mutual TLS; agents and readers need a certificate that
            this CA has signed and that names their role. Replaced files become active at once.
        plaintext: Whether to listen at `host:port` without TLS and tokens: then everyone who
            reaches the address may write and read.
        probes: The probes whose events the server stores; empty for all that are installed.
        linger_seconds: The shortest time between two inserts into a table, in seconds; batches
            that arrive in between are merged.
        max_insert_rows: The number of waiting rows with which an insert begins at once.
        max_batch_bytes: The largest batch that the server accepts, in bytes; at most 48 MiB.
        max_decoded_bytes: The largest size of a batch's rows in memory, in bytes; a batch is
            compressed on the wire.
        max_age_days: The greatest age of an event when it arrives, in days; the agent learns that
            older ones are rejected. At most the longest `ttl_days` counts.
        max_streams: The most streams of agents that are open at once.
        max_pending_bytes: The most bytes that batches may hold until they are stored; then the
            server stops reading and the agents wait.
        ttl_days: The age in days after which the store deletes rows; not set: never.
        probe_ttl_days: The same for single probes, by name, instead of `ttl_days`: `open = 7` in
            the table `[probe_ttl_days]`.
        disk_limit: The share of the store's disk, such as 0.85, above which the server deletes the
            oldest days of all probes, but never today's; not set: never.
        query_seconds: The longest time of one query, in seconds, with its wait for a slot and the
            transfer of its answer.
        query_bytes: The largest answer of one query, in bytes.
        query_slots: The most queries that run at a time; further ones wait.
        query_slots_per_peer: The most queries of one reader that run at a time.
        watchers_per_peer: The most streams of stored events (`infrasight tail`) of one reader.
        query_memory: The most memory that all queries together may use in the store, in bytes; not
            set: half of the store's. The embedded store uses 70 % of what the machine or the
            container has; a ClickHouse server has its own limit.
        stop_seconds: How long the server waits for the store when it stops, in seconds; agents
            keep the batches that are not stored by then.
        keep_privileges: Whether to keep all capabilities and system calls, for plugins that need
            them; by default the server drops what it does not need.
        log_level: The least severe level that is logged: `debug`, `info`, `warning` or `error`.
    """

    listen: str = DEFAULT_SERVER
    socket_group: str = "infrasight"
    agent_users: tuple[str, ...] = ()
    tokens: Path | None = None
    status_listen: str = "127.0.0.1:7444"
    data: Path = Path("/var/lib/infrasight")
    store: str = EMBEDDED
    store_password: str = field(default="", repr=False)
    store_password_file: Path | None = None
    query_user: str = ""
    query_password: str = field(default="", repr=False)
    query_password_file: Path | None = None
    require_store_confinement: bool = False
    database: str = field(
        default="infrasight", validator=validators.matches_re(r"[A-Za-z_][A-Za-z0-9_]*")
    )
    tls: ListenerTls | None = None
    plaintext: bool = False
    probes: tuple[str, ...] = ()
    linger_seconds: float = field(default=0.5, validator=validators.ge(0))
    max_insert_rows: int = field(default=100_000, validator=_positive)
    max_batch_bytes: int = field(default=32 << 20, validator=[_positive, validators.le(48 << 20)])
    max_decoded_bytes: int = field(default=128 << 20, validator=_positive)
    max_age_days: int = field(default=366, validator=_positive)
    max_streams: int = field(default=2_000, validator=_positive)
    max_pending_bytes: int = field(default=256 << 20, validator=_positive)
    ttl_days: int | None = field(default=None, validator=validators.optional(_positive))
    probe_ttl_days: Mapping[str, int] = field(
        factory=dict,
        validator=validators.deep_mapping(validators.matches_re(r"[a-z][a-z0-9_]*"), _positive),
    )
    disk_limit: float | None = field(
        default=None,
        validator=validators.optional([validators.gt(0), validators.lt(1)]),
    )
    query_seconds: float = field(default=60.0, validator=_positive)
    query_bytes: int = field(default=1 << 30, validator=_positive)
    query_slots: int = field(default=4, validator=_positive)
    query_slots_per_peer: int = field(default=2, validator=_positive)
    watchers_per_peer: int = field(default=8, validator=_positive)
    query_memory: int | None = field(default=None, validator=validators.optional(_positive))
    stop_seconds: float = field(default=10.0, validator=validators.ge(0))
    keep_privileges: bool = False
    log_level: str = "info"

    def check(self) -> None:
        """Checks that it is certain who may connect to the address. Raises ConfigError."""
        address = Address.parse(self.listen)
        if address.is_unix and self.tls is not None:
            raise ConfigError(
                f"listen: {self.listen} is a Unix socket, which does not use TLS; remove tls"
            )
        require_tls_or_loopback(self.listen, self.tls, self.plaintext)
        is_plain_port = address.is_loopback_port and self.tls is None and not self.plaintext
        if self.tokens is not None and not is_plain_port:
            raise ConfigError(
                "tokens: they are for host:port on loopback without TLS and without plaintext, "
                f"not for {self.listen}; remove them, or listen there"
            )
        if self.tokens is None and is_plain_port:
            raise ConfigError(
                f"listen: every user of this machine could write and read at {self.listen}: listen "
                f"on a Unix socket (--listen {DEFAULT_SERVER}), or set tokens or the files of TLS, "
                "or permit it explicitly (`plaintext = true`, `--plaintext`)"
            )

    @property
    def batch_limits(self) -> BatchLimits:
        """The bounds on what agents send."""
        age = min(self.max_age_days, self.ttl.longest or self.max_age_days)
        return BatchLimits(self.max_batch_bytes, self.max_decoded_bytes, age)

    @property
    def ttl(self) -> Ttl:
        """When the store deletes rows."""
        return Ttl(self.ttl_days, self.probe_ttl_days)

    def open_store(self) -> "Store":
        """Opens the store.

        Raises:
            ConfigError: The store's URL or password file is not usable.
            StoreError: The store cannot be opened.
        """
        # Imported here: the command reads settings before pyarrow may start threads.
        from infrasight_server.store.clickhouse import Store

        if self.store == EMBEDDED:
            if self.query_user:
                raise ConfigError(
                    "query_user: the embedded store has no users; "
                    "remove query_user, or set store to the URL of a ClickHouse server"
                )
            folder = self.data / "store"
            make_private_folder(folder, "data")
            store_bytes = memory.store_memory()
            return Store.embedded(
                folder,
                self.database,
                self._query_limits(self.query_memory or memory.query_memory(store_bytes)),
                store_bytes,
                self.require_store_confinement,
            )
        return Store.at(
            self.store,
            self.database,
            _secret("store_password_file", self.store_password_file, self.store_password),
            self._query_limits(self.query_memory),
            self.query_user,
            _secret("query_password_file", self.query_password_file, self.query_password),
            self.query_memory,
        )

    def _query_limits(self, query_memory: int | None) -> QueryLimits:
        limits = QueryLimits(seconds=self.query_seconds, bytes=self.query_bytes)
        if query_memory is None:
            return limits
        return evolve(limits, memory_bytes=memory.memory_of_one_query(query_memory))


def _secret(key: str, file: Path | None, value: str) -> str:
    """Returns the content of a setting's file, or the value if there is no file."""
    if file is None:
        return value
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {file}: {error.strerror}") from error
