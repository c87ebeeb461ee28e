"""Makes the golden blocks of connect and accept after a change of columns; then check rows.json.

usage: make_golden.py      (as root)
"""

import socket
import subprocess
from pathlib import Path

from attrs import evolve
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, load, running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import save_golden_blocks

TESTS = Path(__file__).parent
SUPPORT = TESTS.parents[1] / "tests/support"
USER = 4242  # whom nothing else on the machine is
PORT = 40404
NAME = b"\0infrasight-golden\xff"


def loaded_probe(probe: str, plugins: PluginManager) -> LoadedProbe:
    """The probe, with small blocks, recording one user alone."""
    kernel = running_kernel()
    program = evolve(plugins.load_bpf(probe, kernel, {}), slots=64)
    return load(probe, program, kernel, LoadSettings(), Filters(include_uid=(USER,)))


def run(*arguments: object, fds: tuple[int, ...] = ()) -> None:
    """Makes the calls of one probe as that user."""
    command = ["/usr/bin/python3", "-S", "-", *map(str, arguments)]
    script = (TESTS / "golden_calls.py").read_bytes()
    environment = {"PYTHONPATH": str(SUPPORT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        command,
        input=script,
        user=USER,
        group=USER,
        env=environment,
        cwd="/",
        pass_fds=fds,
        check=True,
    )


def main() -> None:
    """Records both probes while one process connects and another accepts."""
    plugins = PluginManager.discover(["accept", "connect"])
    probes = [loaded_probe(name, plugins) for name in ("connect", "accept")]
    with (
        socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.socket(socket.AF_UNIX) as named,
    ):
        named.bind(NAME)
        named.listen()
        run("connect")
        fds = (server.fileno(), named.fileno())
        run("accept", *fds, fds=fds)
    for probe in probes:
        probe.detach()
        save_golden_blocks(TESTS / "golden" / probe.name, probe, plugins)
        probe.close()


if __name__ == "__main__":
    main()
