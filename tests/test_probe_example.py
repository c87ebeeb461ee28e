"""The tutorial's probe, `tests/examples/infrasight-probe-mkdir`, as its author would ship it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from infrasight_testbed.wheels import build_wheels, create_environment

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests/examples/infrasight-probe-mkdir"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with the wheels of the core and of the example."""
    folder = tmp_path_factory.mktemp("tutorial")
    wheels = build_wheels((ROOT / "infrasight-core", EXAMPLE), folder / "wheels")
    return create_environment(folder / "venv", wheels)


def test_example_passes_its_own_tests(python: Path, tmp_path: Path) -> None:
    """Installed from its wheel, the example keeps the contract and records each call correctly."""
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")  # our conftest.py does not apply there
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
