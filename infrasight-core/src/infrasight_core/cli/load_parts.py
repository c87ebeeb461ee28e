"""The processes whose CPU time `infrasight loadtest` measures: agent, server and store."""

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from infrasight_core.net.address import DEFAULT_SERVER, Address

_PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED, of a whole process; see clock_getcpuclockid(3)
_CLICKHOUSE = "clickhouse"
_PART_ORDER = ("agent", "server", "store")

Parts = Mapping[str, tuple[int, ...]]


def find_parts(
    server: str | None, agent_pid: int | None, server_pid: int | None, agents: Sequence[int]
) -> Parts:
    """Finds the processes of each part on this machine.

    Args:
        server: The server's address, None for the default one.
        agent_pid: The agent that the user named.
        server_pid: The server that the user named.
        agents: The processes that record the probe.

    Returns:
        The process ids by part; none where it is not known to run on this machine.
    """
    agent = agent_pid or (agents[0] if len(agents) == 1 else 0)
    serving = server_pid or _process_behind(Address.parse(server or DEFAULT_SERVER))
    store = _descendants(serving) or _named(_CLICKHOUSE) if serving else ()
    found = ((agent,) if agent else (), (serving,) if serving else (), store)
    return dict(zip(_PART_ORDER, found, strict=True))


def cpu_ns(parts: Parts) -> dict[str, int | None]:
    """Returns the CPU time of each part so far, in nanoseconds; None where it does not run here."""
    return {part: _cpu_ns(pids) for part, pids in parts.items()}


def _cpu_ns(pids: Sequence[int]) -> int | None:
    try:
        times = [time.clock_gettime_ns(~pid << 3 | _PROCESS_CLOCK) for pid in pids]
    except OSError:  # a process has ended
        return None
    return sum(times) if times else None


def _process_behind(address: Address) -> int:
    """Returns the process that listens at a Unix socket; 0 if it is unknown."""
    if not address.is_unix:
        return 0
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.host)
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    except OSError:  # the query reports why
        return 0
    pid: int = _PEER.unpack(peer)[0]
    return pid


def _descendants(pid: int) -> tuple[int, ...]:
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(process.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return tuple(sorted(found - {pid}))


def _named(name: str) -> tuple[int, ...]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().startswith(name):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return tuple(sorted(found))
