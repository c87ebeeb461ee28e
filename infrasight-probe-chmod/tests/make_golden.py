"""Makes the golden block of chmod after a change of its columns; then check rows.json.

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
>/tmp/infrasight-golden
chmod 4755 /tmp/infrasight-golden
chmod 640 infrasight-golden
chmod 600 "$(printf '/\377\376')"
perl -e 'chmod 0600, "./infrasight-golden"; open F, ">>infrasight-golden"; chmod 0644, *F;
chmod 0, "none"'
perl -e 'chmod 0, "/etc/passwd"'
rm infrasight-golden
"""


def main() -> None:
    """Records one user's changes: absolute, relative, by descriptor, not permitted and missing."""
    plugins = PluginManager.discover(["chmod"])
    kernel = running_kernel()
    program = evolve(plugins.load_bpf("chmod", kernel, {}), slots=64)
    loaded = load("chmod", program, kernel, LoadSettings(), Filters(include_uid=(USER,)))
    command = ["/bin/sh", "-c", SCRIPT]
    subprocess.run(
        command, user=USER, group=USER, env={}, cwd="/tmp", stderr=subprocess.DEVNULL, check=True
    )
    loaded.detach()
    save_golden_blocks(FOLDER, loaded, plugins)
    loaded.close()


if __name__ == "__main__":
    main()
