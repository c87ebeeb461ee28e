#!/usr/bin/python3
"""Installs packages into /opt/infrasight, an image's virtual environment. Runs inside the build.

install.py uv                    installs the locked version of uv into a separate environment
install.py dependencies NAME…    installs the dependencies of packages in this repository
install.py packages NAME…        installs packages, from this repository or from the index
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

REPOSITORY = Path.cwd()
UV = Path("/opt/uv")
TARGET = Path("/opt/infrasight")
LOCK = REPOSITORY / "requirements.lock"
SECRETS = Path("/run/secrets")
# Files in wheels that InfraSight does not use.
UNUSED = ("pyarrow/include", "pyarrow/src", "pyarrow/tests", "numpy/**/tests", "pandas/tests")


def environment() -> dict[str, str]:
    """The environment of this process, with settings for pip and uv from the build's secrets."""
    variables = dict(os.environ)
    registry = SECRETS / "registry"
    if registry.exists():
        for line in registry.read_text(encoding="utf-8").splitlines():
            name, separator, value = line.partition("=")
            if separator:
                variables[name] = value
    ca = SECRETS / "ca"
    if ca.exists():
        variables["PIP_CERT"] = str(ca)
        variables["SSL_CERT_FILE"] = str(ca)
    variables["UV_CACHE_DIR"] = "/var/cache/uv"
    variables["UV_LINK_MODE"] = "copy"
    variables["UV_NO_PROGRESS"] = "1"
    variables["UV_PYTHON_DOWNLOADS"] = "never"
    variables["PYTHONHASHSEED"] = "0"  # the order of sets in bytecode
    variables["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    variables["PIP_NO_CACHE_DIR"] = "1"
    return variables


def run(*command: str | Path) -> None:
    """Runs a command; if it fails, the build fails."""
    subprocess.run(command, check=True, env=environment(), umask=0o022)


def dependencies(names: list[str]) -> list[str]:
    """The dependencies of packages in this repository, without these packages themselves."""
    requirements = []
    for name in names:
        pyproject = (REPOSITORY / name / "pyproject.toml").read_text(encoding="utf-8")
        for requirement in tomllib.loads(pyproject)["project"]["dependencies"]:
            distribution = re.split(r"[^\w.-]", requirement)[0]
            if distribution not in names:
                requirements.append(requirement)
    return requirements


def install(*requirements: str) -> None:
    """Installs requirements into the image's environment, in the locked versions."""
    uv = UV / "bin" / "uv"
    if not TARGET.exists():
        run(uv, "venv", "--quiet", "--python", "/usr/bin/python3", TARGET)
    command = [uv, "pip", "install", "--no-sources", "--python", TARGET / "bin" / "python"]
    # The hashes in the lock are verified. The packages of this repository are built, no others.
    command += ["--constraint", LOCK, "--build-constraint", LOCK, "--only-binary", ":all:"]
    command += [f"--no-binary={name}" for name in own_packages()]
    run(*command, *requirements)


def own_packages() -> list[str]:
    """The packages of this repository."""
    return sorted(file.parent.name for file in REPOSITORY.glob("infrasight-*/pyproject.toml"))


def locked_lines() -> dict[str, str]:
    """What the lock pins: for each package the lines with its version and hashes."""
    locked: dict[str, str] = {}
    name = ""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if not line.startswith((" ", "#")):
            name = line.partition("==")[0]
            locked[name] = ""
        locked[name] += line + "\n"
    return locked


def require_locked(additional: list[str]) -> None:
    """Fails if a package is installed that neither the lock nor the build's arguments name.

    Args:
        additional: The requirements that the build's arguments name.
    """
    (site_packages,) = TARGET.glob("lib/python*/site-packages")
    found = {distribution.metadata["Name"] for distribution in distributions(path=[site_packages])}
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in additional]
    allowed = {normalize(name) for name in (*locked_lines(), *own_packages(), *names)}
    unlocked = sorted(name for name in found if normalize(name) not in allowed)
    if unlocked:
        sys.exit(f"not in requirements.lock: {', '.join(unlocked)}; run `make lock`")


def normalize(name: str) -> str:
    """The name of a distribution in its normalized form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def remove_unused_files() -> None:
    """Removes the unused files of wheels."""
    (site_packages,) = TARGET.glob("lib/python*/site-packages")
    for pattern in UNUSED:
        for path in list(site_packages.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def remove_traces() -> None:
    """Removes what differs between two builds: when and from where uv installed our packages."""
    (site_packages,) = TARGET.glob("lib/python*/site-packages")
    for file in site_packages.glob("*.dist-info/uv_cache.json"):
        file.unlink()
        record = file.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text(
            "".join(line for line in lines if "/uv_cache.json," not in line), encoding="utf-8"
        )


def compile_bytecode() -> None:
    """Compiles all modules, one after the other: in parallel, the result would vary.

    The root file system is read-only, so Python must not compare bytecode and source.
    """
    command = (TARGET / "bin" / "python", "-m", "compileall", "-q")
    run(*command, "--invalidation-mode", "unchecked-hash", TARGET / "lib")


def main(task: str, *names: str) -> None:
    """Runs one task."""
    if task == "uv":
        run("/usr/bin/python3", "-m", "venv", UV)
        locked = UV / "locked.txt"
        locked.write_text(locked_lines()["uv"], encoding="utf-8")
        options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:")
        run(UV / "bin" / "pip", "install", *options, "--requirement", locked)
    elif task == "dependencies":
        install(*dependencies(list(names)))
    elif task == "packages":
        requirements = [
            f"./{name}" if (REPOSITORY / name / "pyproject.toml").exists() else name
            for name in names
        ]
        install(*requirements)
        require_locked(list(names))
        remove_unused_files()
        remove_traces()
        compile_bytecode()
        run(TARGET / "bin" / "python", "-c", "import infrasight_core.agent.agent")
    else:
        sys.exit(f"unknown task {task!r}\n{__doc__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
