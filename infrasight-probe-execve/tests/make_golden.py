"""Makes the golden block of execve after a change of its columns; then check rows.json.

usage: make_golden.py      (as root)
"""

import subprocess
from pathlib import Path

from attrs import evolve
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import save_golden_blocks

FOLDER = Path(__file__).parent / "golden"
SCRIPT = r"""
/bin/echo one "" "two words"
/bin/echo "$(printf '\377\376')" 'new
line'
(exec /no/such/program a b)
/bin/true $(/usr/bin/printf '%01000d %01000d %01000d %01000d ' $(/usr/bin/seq 40))
"""


def main() -> None:
    """Records calls of every kind: plain, any byte, failed, too long."""
    plugins = PluginManager.discover(["execve"])
    kernel = running_kernel()
    program = evolve(plugins.load_bpf("execve", kernel, {}), slots=64)
    loaded = load("execve", program, kernel, LoadSettings())
    subprocess.run(
        ["/bin/sh", "-c", SCRIPT],
        env={},
        cwd="/usr",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    loaded.detach()
    save_golden_blocks(FOLDER, loaded, plugins)
    loaded.close()


if __name__ == "__main__":
    main()
