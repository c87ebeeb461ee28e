"""A new folder `infrasight-*` takes part in everything by existing: no list names the packages."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import import_contracts
import pytest

import proto

ROOT = Path(__file__).parents[1]
NAME = "infrasight-probe-new"
MODULE = "infrasight_probe_new"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The root's settings, the core, and a new package whose source holds a type error."""
    for name in ("Makefile", "pyproject.toml", ".importlinter"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("infrasight-core", "proto", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    package = tmp_path / NAME
    source = package / "src" / MODULE
    (source / "v1").mkdir(parents=True)
    (package / "tests").mkdir()
    (package / "pyproject.toml").write_text(f'[project]\nname = "{NAME}"\nversion = "1"\n')
    (source / "__init__.py").write_text('"""A probe."""\nANSWER: int = "no number"\n')
    (source / "v1" / "new.proto").write_text(
        'syntax = "proto3";\npackage infrasight_probe_new.v1;\n'
    )
    (package / "tests" / "test_new.py").write_text("def test_of_the_new_package(): pass\n")
    return tmp_path


@pytest.fixture
def output(workspace: Path) -> Callable[..., str]:
    """Runs a command in the workspace; returns its output, whatever its status."""

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    return run


def test_make_finds_a_new_package(output: Callable[..., str]) -> None:
    """`make lock` resolves its dependencies."""
    words = output("make", "--dry-run", "lock").split()
    assert NAME in words[words.index("printf") : words.index("|")]


def test_pytest_finds_the_tests_of_a_new_package(output: Callable[..., str]) -> None:
    """Without arguments pytest collects them."""
    collected = output(
        sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", "of_the_new_package"
    )
    assert f"{NAME}/tests/test_new.py::test_of_the_new_package" in collected


def test_mypy_checks_a_new_package(output: Callable[..., str]) -> None:
    """The type error is the only one reported, at its place in the package."""
    found = output(sys.executable, "-m", "mypy", "--cache-dir=/dev/null", f"{NAME}/src")
    assert f"{NAME}/src/{MODULE}/__init__.py:2: error: Incompatible types" in found
    assert "Found 1 error in 1 file" in found


def test_import_contracts_hold_a_new_package(workspace: Path) -> None:
    """It is a root package, bound by the probes' contract, and forbidden where probes are."""
    packages = import_contracts.import_packages(workspace)
    assert packages == ["infrasight", "infrasight_core", MODULE]
    contracts = import_contracts.expand((workspace / ".importlinter").read_text(), packages)
    assert "\n    {" not in contracts
    sections = dict(section.split("]", 1) for section in contracts.split("\n[importlinter")[1:])
    assert f"    {MODULE}\n" in sections[""]
    assert f"source_modules =\n    {MODULE}\n" in sections[":contract:probes"]
    assert f"    {MODULE}\n" in sections[":contract:core"].split("forbidden_modules")[1]


def test_buf_checks_a_new_package(workspace: Path) -> None:
    """Its folder of `.proto` files is a module, and that of a package without any is none."""
    assert proto.buf_modules(workspace) == ["proto", f"{NAME}/src"]
