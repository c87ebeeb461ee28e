"""The agent's settings; see `infrasight agent --help` for where they may come from."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen

from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.net.tls import TlsFiles


@frozen
class AgentSettings:
    """What an agent is told.

    Attributes:
        server: `host:port` of the server.
        tls: Certificate, key and CA of mutual TLS, with the operator too; without it the server must be on loopback.
        plaintext: Send over the network without TLS all the same.
        node: The name that the host's events carry.
        operator: `host:port` of the cluster's operator, whose configuration names the probes to run and comes over options and
            filters given here; until it has come nothing is recorded. Empty: there is none.
        state: The folder in which that configuration is kept for starts while the operator is away.
        pod: The name of the pod that the agent runs in; the operator is told.
        packages: The folder into which `infrasight packages` has installed; the operator is told what its report says.
        probes: Which probes to run; none named: all installed ones. With an operator: not heeded.
        disable: Plugins not to load, enrichers too.
        options: Each probe's own table.
        filters: What each probe records, by probe; `all` for every probe, key by key unless the probe's own sets it.
        status_listen: `host:port` of /metrics, /healthz and /readyz.
        block_memory: The bytes that one probe's blocks may take in the kernel, over all CPUs.
        outbox_memory: The bytes of batches that may wait for the server.
        loader_python: A Python that has bcc.
        compat: Record what 32-bit programs do, too. To see it, a program runs in every system call of the machine: 0.3 µs.
        stop_seconds: How long to wait at the end for the server's last acknowledgements.
        log_level: debug, info, warning or error.
    """

    server: str = "127.0.0.1:7443"
    tls: TlsFiles | None = None
    plaintext: bool = False
    node: str = field(factory=platform.node)
    operator: str = ""
    state: Path = Path("/var/lib/infrasight")
    pod: str = ""
    packages: Path | None = None
    probes: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    filters: Mapping[str, Filters] = Factory(dict)
    status_listen: str = "127.0.0.1:7445"
    block_memory: int = 64 << 20
    outbox_memory: int = 128 << 20
    loader_python: Path = Path("/usr/bin/python3")
    compat: bool = True
    stop_seconds: float = 5.0
    log_level: str = "info"

    def load_settings(self) -> LoadSettings:
        """How the probes are to be loaded."""
        return LoadSettings(
            self.loader_python, self.block_memory, own_work=False, compat=self.compat
        )

    def enabled(self) -> tuple[str, ...] | None:
        """Which probes to load; None for all that are installed."""
        return self.probes if self.probes or self.operator else None

    def filters_of(self, probe: str) -> Filters:
        """Which of a probe's events are recorded."""
        return self.filters.get("all", EVERYTHING).merged(self.filters.get(probe, EVERYTHING))
