"""Holds the agent's settings and knows where to read them again.

`infrasight agent --help` describes their sources: a file, the environment and options.
"""

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Attribute, Factory, field, frozen
from attrs.validators import ge

from infrasight_core.agent.spool_settings import SpoolSettings
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.net.address import DEFAULT_SERVER
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import TlsFiles
from infrasight_core.settings.reader import file_from_environment, read_settings
from infrasight_core.settings.reserved_names import (
    EVERY_PROBE,
    RESERVED_NAMES,
    describe_reserved,
)

if TYPE_CHECKING:
    from infrasight_core.kernel.loader import LoadSettings

DEFAULT_PROGRAM_CACHE = "/var/cache/infrasight"
ENV_PREFIX = "INFRASIGHT_AGENT_"


def _plugin_names(*allowed: str) -> Any:
    """A validator of names of plugins, none of which may be reserved, except for those allowed."""

    def check(_: object, attribute: "Attribute[Any]", names: Iterable[str]) -> None:
        for name in names:
            if name in RESERVED_NAMES.difference(allowed):
                raise ValueError(f"'{attribute.name}' {describe_reserved(name)}")

    return check


@frozen
class ProbeSettings:
    """The settings of one probe.

    Attributes:
        options: The probe's own table of the settings.
        filters: Which of its events are recorded.
    """

    options: Mapping[str, Any] = Factory(dict)
    filters: Filters = EVERYTHING


@frozen
class AgentSettings:
    """The settings of an agent.

    Attributes:
        server: Address of the server, as `host:port`, or `unix:/path` for its Unix socket. Several,
            separated by commas, are servers that share their store: the agent begins with one of
            them by chance, and goes on with the next when a stream ends.
        tls: Certificate, key and CA for mutual TLS with the server and the operator; without them,
            both must be on this machine.
        plaintext: Whether to send without TLS over the network, or over loopback to whichever
            process listens there.
        token_file: A file with the token that proves to a server on loopback without TLS who this
            agent is; no other user may access the file.
        server_user: The user, by name or number, who may run the server and the operator on this
            machine, besides root and the agent's own user. Without TLS, the agent sends nothing to
            other users' processes.
        node: The name of this host in its events.
        operator: Address of the cluster's operator, as `host:port`; its configuration selects the
            probes and overrides options and filters given here. Empty for no operator.
        state: The folder that stores the operator's last configuration, with which the agent starts
            while the operator is unavailable. No other user may enter it.
        pod: The name of the agent's pod, which the agent reports to the operator.
        packages: The folder into which `infrasight packages` installs; the agent reports its
            contents to the operator.
        probes: The probes to run; empty for all installed ones. Ignored with an operator.
        disable: Plugins not to load, enrichers included.
        options: The options of each plugin, by its name.
        filters: What each probe records, by its name. `all` applies to every probe; a probe's own
            key replaces the same key of `all`. An operator can set filters of named probes only.
        status_listen: Address of the HTTP server of /metrics, /healthz and /readyz, as `host:port`.
        block_memory: Bytes of kernel memory for the blocks of one probe, over all CPUs.
        outbox_memory: Bytes of batches in memory that may wait for the server. With a spool,
            further ones are on disk alone; without one, they are dropped.
        spool: How batches are stored on disk until the server has acknowledged them.
        loader_python: The Python interpreter that has the module `bcc`.
        program_cache: The folder that stores compiled probes, so that the next start needs no
            compiler. No other user may enter it. Empty to compile at every start.
        canary_interval: Seconds between two checks that every probe still records: the agent causes
            an event of each and waits for it, and compares programs and filters in the kernel with
            what it loaded. 0 for no checks.
        stop_seconds: Seconds to wait for the server's last acknowledgements when the agent stops.
        keep_privileges: Whether to keep all capabilities and system calls, for plugins that need
            more than the agent; by default it drops what it does not need.
        log_level: The lowest level to log: debug, info, warning or error.
    """

    server: str = DEFAULT_SERVER
    tls: TlsFiles | None = None
    plaintext: bool = False
    token_file: Path | None = None
    server_user: str = ""
    node: str = field(factory=platform.node)
    operator: str = ""
    state: Path = Path("/var/lib/infrasight-agent")
    pod: str = ""
    packages: Path | None = None
    probes: tuple[str, ...] = field(default=(), validator=_plugin_names())
    disable: tuple[str, ...] = field(default=(), validator=_plugin_names())
    options: Mapping[str, Mapping[str, Any]] = field(factory=dict, validator=_plugin_names())
    filters: Mapping[str, Filters] = field(factory=dict, validator=_plugin_names(EVERY_PROBE))
    status_listen: str = "127.0.0.1:7445"
    block_memory: int = 64 << 20
    outbox_memory: int = 128 << 20
    spool: SpoolSettings = field(factory=SpoolSettings)
    loader_python: Path = Path("/usr/bin/python3")
    program_cache: str = DEFAULT_PROGRAM_CACHE
    canary_interval: float = field(default=60.0, validator=ge(0))
    stop_seconds: float = 5.0
    keep_privileges: bool = False
    log_level: str = "info"

    def load_settings(self) -> "LoadSettings":
        """Returns how to load programs."""
        # Imported here: the command reads settings before NumPy and pyarrow may start threads.
        from infrasight_core.kernel.loader import LoadSettings
        from infrasight_core.kernel.program_cache import ProgramCache

        return LoadSettings(
            python=self.loader_python,
            memory=self.block_memory,
            own_work=False,
            cache=ProgramCache(Path(self.program_cache)) if self.program_cache else None,
        )

    def servers(self) -> tuple[str, ...]:
        """Returns the addresses of the servers."""
        return tuple(address.strip() for address in self.server.split(","))

    def peer(self, address: str) -> Peer:
        """Returns how to reach a server or the operator at an address."""
        token_file = self.token_file if address in self.servers() else None
        return Peer(address, self.tls, self.plaintext, token_file, self.server_user)

    def enabled(self) -> tuple[str, ...] | None:
        """Returns the names of the probes to load; None for all that are installed."""
        return self.probes if self.probes or self.operator else None

    def filters_of(self, probe: str) -> Filters:
        """Returns the filters of a probe, merged with those of all probes."""
        return self.filters.get(EVERY_PROBE, EVERYTHING).merged(self.filters.get(probe, EVERYTHING))

    def of_probe(self, probe: str) -> ProbeSettings:
        """Returns the options and filters of a probe."""
        return ProbeSettings(self.options.get(probe, {}), self.filters_of(probe))


@frozen
class SettingsSource:
    """Where the settings come from.

    Attributes:
        file: The file; None for the one that the environment names, if any.
        flags: The command's options, which override the file and the environment.
    """

    file: Path | None
    flags: Mapping[str, object]

    def read(self) -> AgentSettings:
        """Reads the settings. Raises ConfigError."""
        return read_settings(AgentSettings, file=self.file, env_prefix=ENV_PREFIX, flags=self.flags)

    def path(self) -> Path | None:
        """Returns the file, which the environment may name; None if there is none."""
        return self.file or file_from_environment(ENV_PREFIX)

    def signature(self) -> tuple[int, ...]:
        """Returns what changes whenever the file does; empty if there is no file."""
        path = self.path()
        if path is None:
            return ()
        try:
            status = path.stat()
        except OSError:  # the file is being replaced or gone; `read` reports it
            return ()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
