"""Decides which capabilities an agent keeps, from its settings and the machine."""

from collections.abc import Iterator
from pathlib import Path

from infrasight_core.agent.settings import AgentSettings
from infrasight_core.console import privileges
from infrasight_core.net.address import Address

ADMIN_PARANOID = 3
"""From this kernel.perf_event_paranoid on, CAP_PERFMON does not suffice for Debian's kernels."""
_DEFAULT_PARANOID = 2


def needed_capabilities(
    settings: AgentSettings, file: Path | None, root: Path = Path("/")
) -> dict[str, str]:
    """Returns the capabilities that an agent needs from its start to its end, and why.

    A reload loads probes again, so the agent needs the same rights as at its start.

    Args:
        settings: The agent's settings.
        file: Its settings file, if it has one.
        root: The root of the file system.
    """
    needed = loading_capabilities(root)
    needed |= privileges.for_reading(_read_paths(settings, file, root))
    needed |= privileges.for_sockets(_sockets(settings))
    if settings.operator:
        needed |= privileges.for_writing(settings.state)
    needed |= privileges.for_port(Address.parse(settings.status_listen).port)
    return needed


def loading_capabilities(root: Path = Path("/")) -> dict[str, str]:
    """Returns the capabilities that loading and attaching probes needs, and why.

    Args:
        root: The root of the file system.
    """
    needed = {
        "BPF": "loads probes, also at a reload",
        "PERFMON": "attaches probes, which read kernel memory",
    }
    paranoid = perf_event_paranoid(root)
    if paranoid >= ADMIN_PARANOID:
        needed["SYS_ADMIN"] = (
            f"attaches probes while kernel.perf_event_paranoid is {paranoid}; 2 needs less"
        )
    return needed


def perf_event_paranoid(root: Path) -> int:
    """Returns kernel.perf_event_paranoid, or the kernel's default if it cannot be read."""
    try:
        return int((root / "proc/sys/kernel/perf_event_paranoid").read_text())
    except (OSError, ValueError):
        return _DEFAULT_PARANOID


def _read_paths(settings: AgentSettings, file: Path | None, root: Path) -> Iterator[Path]:
    """Yields what an agent reads at its start and at a reload."""
    yield root / "sys/kernel/tracing"
    yield from privileges.program_paths()
    if file is not None:
        yield file
    for path in privileges.paths_of(settings):
        if path != settings.state or settings.operator:
            yield path


def _sockets(settings: AgentSettings) -> Iterator[Path]:
    """Yields the Unix sockets that the settings name."""
    for text in (*settings.servers(), settings.operator):
        address = Address.parse(text) if text else None
        if address is not None and address.is_unix:
            yield Path(address.host)
    sockets = settings.options.get("containers", {}).get("sockets", ())
    if isinstance(sockets, list | tuple):
        yield from (Path(socket) for socket in sockets if isinstance(socket, str))
