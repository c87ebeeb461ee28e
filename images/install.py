#!/usr/bin/python3
"""Fills /opt/infrasight, an image's virtual environment; runs inside the build, in the folder of the tree.

install.py uv                    the locked uv, by pip, into an environment of its own
install.py dependencies NAME…    what these packages of the tree depend on, but for each other
install.py packages NAME…        packages: of the tree where it has one of that name, else of the index
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE, UV, TARGET = Path.cwd(), Path("/opt/uv"), Path("/opt/infrasight")
LOCK = HERE / "requirements.lock"
SECRETS = Path("/run/secrets")
# What wheels bring and nothing here uses.
UNUSED = ("pyarrow/include", "pyarrow/src", "pyarrow/tests", "numpy/**/tests", "pandas/tests")


def environment() -> dict[str, str]:
    """The process's own, and how an index is reached, as the build's secrets say."""
    told = dict(os.environ)
    if (registry := SECRETS / "registry").exists():
        lines = [
            line.partition("=")
            for line in registry.read_text(encoding="utf-8").splitlines()
            if "=" in line
        ]
        told |= {name: value for name, _, value in lines}
    if (ca := SECRETS / "ca").exists():
        told |= {"PIP_CERT": str(ca), "SSL_CERT_FILE": str(ca)}
    told |= {
        "UV_CACHE_DIR": "/var/cache/uv",
        "UV_LINK_MODE": "copy",
        "UV_NO_PROGRESS": "1",
        "UV_COMPILE_BYTECODE": "1",
    }
    told |= {
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH"
    }  # the root is read-only: what is compiled holds
    return told | {
        "UV_PYTHON_DOWNLOADS": "never",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
    }


def run(*command: str | Path) -> None:
    """Runs a command; its failure is the build's."""
    subprocess.run(command, check=True, env=environment(), umask=0o022)


def requirements(names: list[str]) -> list[str]:
    """What packages of the tree depend on, without each other."""
    projects = [
        tomllib.loads((HERE / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name in names
    ]
    listed = [requirement for project in projects for requirement in project["dependencies"]]
    return [
        requirement for requirement in listed if re.split(r"[^\w.-]", requirement)[0] not in names
    ]


def install(*what: str) -> None:
    """Installs into the image's environment, which is made first, in the locked versions."""
    uv = UV / "bin" / "uv"
    if not TARGET.exists():
        run(uv, "venv", "--quiet", "--python", "/usr/bin/python3", TARGET)
    locked = ("--constraint", LOCK, "--build-constraint", LOCK)
    run(uv, "pip", "install", "--no-sources", "--python", TARGET / "bin" / "python", *locked, *what)


def trim() -> None:
    """Removes what is not used."""
    (site,) = TARGET.glob("lib/python*/site-packages")
    for path in [path for pattern in UNUSED for path in site.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main(task: str, *names: str) -> None:
    """Does one of the tasks."""
    if task == "uv":
        run("/usr/bin/python3", "-m", "venv", UV)
        run(UV / "bin" / "pip", "install", "--quiet", "--constraint", LOCK, "uv")
    elif task == "dependencies":
        install(*requirements(list(names)))
    elif task == "packages":
        install(
            *(f"./{name}" if (HERE / name / "pyproject.toml").exists() else name for name in names)
        )
        trim()
        run(TARGET / "bin" / "python", "-c", "import infrasight_core.agent.agent")
    else:
        sys.exit(f"{task}: no such task;\n{__doc__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
