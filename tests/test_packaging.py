"""The wheels are complete, and installable without this tree."""

import json
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from infrasight_testbed.wheels import build_wheels, create_environment

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("infrasight-*/pyproject.toml"))
# Run with the installed wheels: everything is imported from them, the plugins are found, and their
# resources can be read. The arguments are the import packages and the probes.
USE = """
import importlib, json, sys
from importlib import resources
from pathlib import Path
import infrasight.v1.stream_pb2_grpc
from infrasight_core.plugin.ddl import define_table
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import Kernel
packages, probes = map(json.loads, sys.argv[1:])
for name in ["infrasight.v1", *packages]:
    module = importlib.import_module(name)
    assert all(Path(path).is_relative_to(sys.prefix) for path in module.__path__), module.__path__
plugins = PluginManager.discover()
assert not plugins.failures, plugins.failures
assert plugins.probes() == probes, plugins.probes()
assert {"errors", "users"} < plugins.plugins.keys(), plugins.plugins.keys()
assert "filename" in define_table("execve", plugins.schemas()["execve"]).statement
program = plugins.load_bpf("execve", Kernel("6.1", "x86_64", 2), {})
assert "infrasight.bpf.h" in program.source.read_text()
assert (resources.files("infrasight") / "v1" / "event.proto").read_text().startswith("syntax")
"""


def declared_probes() -> list[str]:
    """The names of the probes that the packages declare as entry points."""
    names: list[str] = []
    for package in PACKAGES:
        if package.startswith("infrasight-probe-"):
            text = (ROOT / package / "pyproject.toml").read_text(encoding="utf-8")
            names += tomllib.loads(text)["project"]["entry-points"]["infrasight"]
    return sorted(names)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A freshly built wheel of each package."""
    folder = tmp_path_factory.mktemp("wheels")
    build_wheels([ROOT / package for package in PACKAGES], folder)
    return {name: next(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_every_file(wheels: dict[str, Path], package: str) -> None:
    """A wheel holds every file of the package's `src`, the licences, and nothing else."""
    source = ROOT / package / "src"
    expected = set()
    for file in source.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            expected.add(str(file.relative_to(source)))
    with zipfile.ZipFile(wheels[package]) as wheel:
        names = wheel.namelist()
    held = {name for name in names if ".dist-info/" not in name}
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert held == expected
    assert licences == {f.name for f in (ROOT / package).glob("LICENSE*")}


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("infrasight-core", "infrasight/v1/event.proto"),
        ("infrasight-core", "infrasight/v1/py.typed"),
        ("infrasight-core", "infrasight/v1/stream_pb2_grpc.py"),
        ("infrasight-core", "infrasight_core/bpf/include/linux/types.h"),
        ("infrasight-core", "infrasight_core/bpf/infrasight.bpf.h"),
        ("infrasight-core", "infrasight_core/plugin/event_table.sql"),
        ("infrasight-core", "infrasight_core/py.typed"),
        ("infrasight-operator", "infrasight_operator/py.typed"),
        ("infrasight-probe-execve", "infrasight_probe_execve/execve.bpf.c"),
        ("infrasight-probe-execve", "infrasight_probe_execve/execve_events.sql"),
        ("infrasight-probe-execve", "infrasight_probe_execve/py.typed"),
        ("infrasight-probe-execve", "infrasight_probe_execve/v1/execve.proto"),
        ("infrasight-server", "infrasight_server/py.typed"),
    ],
)
def test_wheel_holds_resources(wheels: dict[str, Path], package: str, name: str) -> None:
    """The wheels hold files that are easily forgotten because they are not Python."""
    with zipfile.ZipFile(wheels[package]) as wheel:
        assert name in wheel.namelist()


def test_namespace_is_shared(wheels: dict[str, Path]) -> None:
    """`infrasight` is a namespace package, so that other distributions can extend it."""
    with zipfile.ZipFile(wheels["infrasight-core"]) as wheel:
        assert "infrasight/__init__.py" not in wheel.namelist()


def test_wheels_work_without_the_tree(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Installed elsewhere, the packages import, the plugins are found and the commands start."""
    python = create_environment(tmp_path / "environment", wheels.values())
    modules = [package.replace("-", "_") for package in PACKAGES]
    arguments = [json.dumps(modules), json.dumps(declared_probes())]
    subprocess.run([python, "-I", "-c", USE, *arguments], check=True, cwd=tmp_path)
    for command in ("infrasight", "infrasight-operator", "infrasight-server"):
        shown = subprocess.run(
            [python.with_name(command), "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Usage:" in shown.stdout
