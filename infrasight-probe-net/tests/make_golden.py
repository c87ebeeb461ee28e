"""Makes the golden blocks of connect and accept anew: as root, after a change of a probe's columns; then look at rows.json.

usage: PYTHONPATH=tests/support make_golden.py
"""

import socket
from pathlib import Path

from attrs import evolve
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.load import LoadedProbe, LoadSettings, load, running_kernel
from infrasight_core.plugins import PluginManager
from infrasight_core.testing import save_golden
from infrasight_testbed.addresses import inet, inet6, unix
from infrasight_testbed.syscalls import call, in_child

FOLDER = Path(__file__).parent / "golden"
USER = 4242  # whom nothing else on the machine is
PORT, CLOSED = 40404, 40405


def loaded_probe(probe: str, plugins: PluginManager) -> LoadedProbe:
    """The probe, with small blocks, recording one user alone."""
    kernel = running_kernel()
    program = evolve(plugins.load_bpf(probe, kernel, {}), slots=64)
    return load(probe, program, kernel, LoadSettings(), Filters(include_uid=(USER,)))


def work() -> list[int]:
    """Calls of every kind: IPv4, IPv6, refused, not waiting, UDP, Unix, no socket, memory that is not there."""
    results = []
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_STREAM, inet("127.0.0.1", PORT)),
        (socket.AF_INET6, socket.SOCK_STREAM, inet6("::ffff:127.0.0.1", PORT)),
        (socket.AF_INET6, socket.SOCK_STREAM, inet6("::1", CLOSED)),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, inet("127.0.0.1", PORT)),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, inet("127.0.0.1", CLOSED)),
        (socket.AF_INET, socket.SOCK_DGRAM, inet("127.0.0.1", CLOSED)),
        (socket.AF_UNIX, socket.SOCK_STREAM, unix(b"\0infrasight-golden\xff")),
        (socket.AF_UNIX, socket.SOCK_STREAM, unix(b"/no/such/socket")),
    ):
        results.append(call("connect", socket.socket(family, kind).detach(), address, len(address)))
    return [*results, call("connect", 9999, inet("127.0.0.1", PORT), 16), call("connect", 3, 8, 16)]


def main() -> None:
    """Records both probes while one child connects and another accepts."""
    plugins = PluginManager.discover(["accept", "connect"])
    probes = [loaded_probe(name, plugins) for name in ("connect", "accept")]
    with (
        socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.socket(socket.AF_UNIX) as named,
    ):
        named.bind(b"\0infrasight-golden\xff")
        named.listen()
        in_child(work, USER)
        fds = (server.fileno(), named.fileno(), 0, 9999)
        in_child(lambda: [call("accept4", fds[0], 0, 0, 0o2004000), *(call("accept", fd, 0, 0) for fd in fds)], USER)
    for probe in probes:
        probe.detach()
        save_golden(FOLDER / probe.name, probe, plugins)
        probe.close()


if __name__ == "__main__":
    main()
