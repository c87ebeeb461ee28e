"""Packages of policies that would run foreign code on a node, or replace what records."""

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from infrasight.v1.control_pb2 import Configuration, Package
from infrasight_testbed.control_server import ControlServer
from infrasight_testbed.package_index import PackageIndex
from infrasight_testbed.system import BIN

EVIL = "evil = True"
ALLOW_UNHASHED = {"INFRASIGHT_PACKAGES_ALLOW_UNHASHED": "true"}
BUILD_SCRIPT = """
import pathlib
pathlib.Path({marker!r}).touch()
def build_wheel(*arguments): raise SystemExit(1)
prepare_metadata_for_build_wheel = build_wheel
"""


class Node:
    """A node whose packages a tenant's policy names.

    Attributes:
        target: The folder that the packages are installed into.

    Args:
        folder: The folder for the target.
        operator: The operator, which sends the packages.
        environment: The environment of the command.
    """

    def __init__(
        self, folder: Path, operator: ControlServer, environment: Mapping[str, str]
    ) -> None:
        self.target = folder / "packages"
        self._operator = operator
        self._environment = environment

    def install(self, *packages: Package, **variables: str) -> dict[str, str]:
        """Runs `infrasight packages`; returns the reasons of its failures."""
        self._operator.send(Configuration(digest="a", settings="{}", packages=packages))
        command: list[str | Path] = [BIN / "infrasight", "packages"]
        command += ["--operator", self._operator.address, "--node", "node-a"]
        command += ["--target", self.target, "--timeout", "60"]
        environment = {**os.environ, **self._environment, **variables}
        subprocess.run(command, env=environment, capture_output=True, check=True)
        report: dict[str, Any] = json.loads((self.target / "report.json").read_text())
        return {failure["name"]: failure["reason"] for failure in report["failures"]}

    def modules(self) -> set[str]:
        """The names of the installed modules."""
        return {path.stem for path in self.target.glob("*.py")}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    """The index of the installation."""
    with PackageIndex(tmp_path / "index") as served:
        yield served


@pytest.fixture
def foreign_index(tmp_path: Path) -> Iterator[PackageIndex]:
    """An index that the attacker controls."""
    with PackageIndex(tmp_path / "foreign") as served:
        yield served


@pytest.fixture
def node(tmp_path: Path, index: PackageIndex) -> Iterator[Node]:
    """A node that installs from the installation's index."""
    with ControlServer() as operator:
        yield Node(tmp_path, operator, index.environment)


def test_package_without_hash_is_not_installed(node: Node, index: PackageIndex) -> None:
    """A policy names a package without a hash, so that whatever the index serves would run."""
    index.add("demo-evil", "1.0", code=EVIL)
    failures = node.install(Package(name="demo-evil", version="1.0"))
    assert "it has no hashes" in failures["demo-evil"]
    assert node.modules() == set()


def test_extra_index_in_the_environment_is_not_used(
    node: Node, foreign_index: PackageIndex
) -> None:
    """A variable of pip names an additional index, from which pip would prefer any file."""
    foreign_index.add("demo-evil", "1.0", code=EVIL)
    (url,) = [url for url in foreign_index.environment.values() if url.startswith("http")]
    failures = node.install(
        Package(name="demo-evil", version="1.0"), PIP_EXTRA_INDEX_URL=url, **ALLOW_UNHASHED
    )
    assert "Could not find a version" in failures["demo-evil"]
    assert node.modules() == set()


def test_index_in_the_environment_is_not_used(node: Node, foreign_index: PackageIndex) -> None:
    """A variable of pip replaces the installation's index."""
    foreign_index.add("demo-evil", "1.0", code=EVIL)
    (url,) = [url for url in foreign_index.environment.values() if url.startswith("http")]
    failures = node.install(
        Package(name="demo-evil", version="1.0"), PIP_INDEX_URL=url, **ALLOW_UNHASHED
    )
    assert "Could not find a version" in failures["demo-evil"]
    assert node.modules() == set()


def test_settings_file_of_pip_is_not_used(
    node: Node, foreign_index: PackageIndex, tmp_path: Path
) -> None:
    """A pip.conf, named by a variable and in the home directory, adds a folder with a wheel."""
    foreign_index.add("demo-evil", "1.0", code=EVIL)
    wheels = tmp_path / "foreign" / "simple" / "demo-evil"
    home = tmp_path / "home"
    for file in (tmp_path / "pip.conf", home / ".config" / "pip" / "pip.conf"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[global]\nfind-links = {wheels}\n")
    failures = node.install(
        Package(name="demo-evil", version="1.0"),
        PIP_CONFIG_FILE=str(tmp_path / "pip.conf"),
        PIP_FIND_LINKS=str(wheels),
        HOME=str(home),
        **ALLOW_UNHASHED,
    )
    assert "Could not find a version" in failures["demo-evil"]
    assert node.modules() == set()


def test_source_distribution_is_not_built(node: Node, index: PackageIndex, tmp_path: Path) -> None:
    """The index serves a source distribution, whose build would run its code as root."""
    marker = tmp_path / "was-run"
    backend = BUILD_SCRIPT.format(marker=str(marker))
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    metadata = "Metadata-Version: 2.1\nName: demo-evil\nVersion: 1.0\n"
    served = tmp_path / "index" / "simple" / "demo-evil"
    served.mkdir()
    with tarfile.open(served / "demo_evil-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("backend.py", backend),
            ("pyproject.toml", project),
            ("PKG-INFO", metadata),
        ):
            info = tarfile.TarInfo(f"demo_evil-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, BytesIO(text.encode()))
    failures = node.install(Package(name="demo-evil", version="1.0"), **ALLOW_UNHASHED)
    assert "demo-evil" in failures
    assert not marker.exists()


def test_package_does_not_replace_a_probe(node: Node, index: PackageIndex) -> None:
    """A package whose files have a hash brings its own plugin `execve`, which records nothing."""
    digest = index.add("demo-evil", "1.0", code=EVIL, plugin='execve = "demo_evil"')
    failures = node.install(Package(name="demo-evil", version="1.0", hashes=[digest]))
    assert "a plugin called 'execve', which is installed already" in failures["demo-evil"]
    assert node.modules() == set()


def test_package_does_not_bring_a_plugin_called_all(node: Node, index: PackageIndex) -> None:
    """A package has a plugin whose filters would be those of every probe."""
    digest = index.add("demo-evil", "1.0", code=EVIL, plugin='all = "demo_evil"')
    failures = node.install(Package(name="demo-evil", version="1.0", hashes=[digest]))
    assert "reserved name" in failures["demo-evil"]
    assert node.modules() == set()


@pytest.mark.parametrize(
    "url",
    [
        "--extra-index-url=http://evil.example",
        "http://index.example/simple --extra-index-url http://evil.example",
        "http://index.example/simple\n--find-links /tmp",
        "http://${HOSTNAME}/simple",
    ],
)
def test_url_of_the_index_brings_no_options(node: Node, url: str) -> None:
    """The URL of the index holds further options of pip, or names a variable."""
    package = Package(name="demo-evil", version="1.0", hashes=[f"sha256:{'0' * 64}"])
    failures = node.install(package, INFRASIGHT_PACKAGES_INDEX_URL=url)
    assert "is not the URL of a package index" in failures["packages"]
