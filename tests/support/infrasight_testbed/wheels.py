"""Builds wheels, and virtual environments that hold them without the source tree."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path


def build_wheels(packages: Iterable[Path], folder: Path) -> list[Path]:
    """Builds the wheels of some packages into a folder; returns them."""
    for package in packages:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        subprocess.run([*build, "--directory", str(folder)], cwd=package, check=True)
    return sorted(folder.glob("*.whl"))


def create_environment(folder: Path, wheels: Iterable[Path]) -> Path:
    """Creates a virtual environment that holds these wheels; returns its Python.

    Third-party dependencies come from this environment, which the wheels precede on the path.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    # Python does not follow the .pth files of this folder, which name the source tree.
    dependencies = sysconfig.get_path("purelib") + "\n"
    (site_packages(python) / "dependencies.pth").write_text(dependencies, encoding="utf-8")
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--offline", "--no-deps", "--python", str(python)]
    subprocess.run([*install, *map(str, wheels)], check=True)
    return python


def site_packages(python: Path) -> Path:
    """Returns the folder where a Python's packages are installed."""
    question = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([str(python), "-c", question], text=True).strip())
