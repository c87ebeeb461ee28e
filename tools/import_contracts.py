"""Checks the import contracts of `.importlinter`.

    python tools/import_contracts.py [LINT-IMPORTS OPTION …]

In that file `{all}` stands for the import packages of every folder `infrasight-*`, `{probes}` for
those of the probes, and `{all - infrasight_server}` for all except the named ones. A new package
is under contract because its folder exists.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINE = re.compile(r"^( *)\{(all|probes)((?: - \w+)*)\}\n", re.MULTILINE)


def import_packages(root: Path) -> list[str]:
    """The import packages of the folders `infrasight-*`, which are the folders in their `src`."""
    sources = root.glob("infrasight-*/src/*")
    return sorted({folder.name for folder in sources if any(folder.rglob("*.py"))})


def expand(template: str, packages: list[str]) -> str:
    """Replaces each line that stands for several packages by one line for each."""
    groups = {
        "all": packages,
        "probes": [name for name in packages if name.startswith("infrasight_probe_")],
    }

    def lines(match: re.Match[str]) -> str:
        indent, group, exceptions = match.groups()
        excluded = exceptions.split(" - ")
        return "".join(f"{indent}{name}\n" for name in groups[group] if name not in excluded)

    return _LINE.sub(lines, template)


def main(arguments: list[str]) -> int:
    """Runs lint-imports on the expanded contracts; returns its status."""
    template = (ROOT / ".importlinter").read_text(encoding="utf-8")
    with tempfile.NamedTemporaryFile("w", suffix=".ini", encoding="utf-8") as contracts:
        contracts.write(expand(template, import_packages(ROOT)))
        contracts.flush()
        command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"]
        command += ["--config", contracts.name, *arguments]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
