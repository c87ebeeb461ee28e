"""Makes the golden block of open after a change of its columns; then check rows.json.

usage: make_golden.py      (as root)
"""

import subprocess
from pathlib import Path

from attrs import evolve
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import save_golden_blocks

FOLDER = Path(__file__).parent / "golden"
USER = 4242  # whom nothing else on the machine is
SCRIPT = r"""
: </etc/passwd
: </no/such/file
: </etc/shadow
: </proc/self/cwd/etc/../etc/hostname
: >/tmp/infrasight-golden
: >>"/tmp/infrasight-golden"
: </usr
: <"$(printf '/\377\376\n')"
: | : </dev/stdin
"""


def main() -> None:
    """Records one user's opens: plain, not permitted, missing, to write, any byte, a pipe."""
    plugins = PluginManager.discover(["open"])
    kernel = running_kernel()
    program = evolve(plugins.load_bpf("open", kernel, {}), slots=64)
    loaded = load("open", program, kernel, LoadSettings(), Filters(include_uid=(USER,)))
    for line in SCRIPT.strip().splitlines():
        command = ["/bin/sh", "-c", line]
        subprocess.run(
            command, user=USER, group=USER, env={}, cwd="/", stderr=subprocess.DEVNULL, check=False
        )
    Path("/tmp/infrasight-golden").unlink()
    loaded.detach()
    save_golden_blocks(FOLDER, loaded, plugins)
    loaded.close()


if __name__ == "__main__":
    main()
