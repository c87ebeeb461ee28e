"""The tutorial's probe, `tests/examples/infrasight-probe-mkdir`, as its author would ship it."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests/examples/infrasight-probe-mkdir"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with the wheels of the core and of the example."""
    folder = tmp_path_factory.mktemp("tutorial")
    for package in (ROOT / "infrasight-core", EXAMPLE):
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        subprocess.run([*build, "--directory", str(folder / "wheels")], cwd=package, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    # Third-party dependencies come from this environment; the wheels come before them.
    question = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", question], text=True).strip())
    dependencies = sysconfig.get_path("purelib") + "\n"
    (site / "dependencies.pth").write_text(dependencies, encoding="utf-8")
    install = [
        str(Path(sys.executable).with_name("uv")),
        "pip",
        "install",
        "--offline",
        "--no-deps",
    ]
    wheels = sorted((folder / "wheels").glob("*.whl"))
    subprocess.run([*install, "--python", python, *wheels], check=True)
    return python


def test_example_passes_its_own_tests(python: Path, tmp_path: Path) -> None:
    """Installed from its wheel, the example keeps the contract and records each call correctly."""
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")  # our conftest.py does not apply there
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
