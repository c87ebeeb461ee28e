"""The software bills of materials: valid, complete and reproducible."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sbom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(ROOT.glob("infrasight-*/pyproject.toml"))

each_package = pytest.mark.parametrize("pyproject", PACKAGES, ids=lambda path: path.parent.name)


def bill_of(pyproject: Path) -> dict[str, Any]:
    """The bill of a package."""
    bill: dict[str, Any] = json.loads(sbom.to_json(sbom.package_bill(pyproject)))
    return bill


@each_package
def test_bill_of_a_package_is_valid_and_reproducible(pyproject: Path) -> None:
    """It follows CycloneDX's schema, and the same files give the same text."""
    text = sbom.to_json(sbom.package_bill(pyproject))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert sbom.to_json(sbom.package_bill(pyproject)) == text


def test_bill_of_the_server_names_all_that_it_needs_with_hashes() -> None:
    """Requirements of requirements are included; every file of another project has its hash."""
    bill = bill_of(ROOT / "infrasight-server/pyproject.toml")
    components = {component["name"]: component for component in bill["components"]}
    assert {"infrasight-core", "chdb", "grpcio", "numpy", "click"} <= components.keys()
    assert "pytest" not in components
    for name, component in components.items():
        assert component["purl"].startswith(f"pkg:pypi/{name}@")
        assert bool(component.get("hashes")) != name.startswith("infrasight-"), name
    depends_on = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    subject = bill["metadata"]["component"]
    assert components["infrasight-core"]["bom-ref"] in depends_on[subject["bom-ref"]]


def test_bill_of_an_image_has_python_and_debian_packages(tmp_path: Path) -> None:
    """Installed distributions and Debian packages are listed; removed packages are not."""
    site_packages = tmp_path / "opt/infrasight/lib/python3.11/site-packages"
    metadata = site_packages / "Demo_Package-1.5.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: Demo_Package\nVersion: 1.5\n")
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\nArchitecture: amd64\n"
        "Description: a library\n with: more\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: amd64\n"
    )
    components = [*sbom.python_components(tmp_path), *sbom.debian_components(tmp_path)]
    urls = [component.purl.to_string() for component in components if component.purl]
    assert urls == ["pkg:pypi/demo-package@1.5", "pkg:deb/debian/libc6@2.36-9?arch=amd64"]


def test_command_writes_a_file_for_each_package() -> None:
    """The command prints each file that it writes."""
    command: list[str | Path] = [sys.executable, ROOT / "tools" / "sbom.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    files = [ROOT / line.partition(":")[0] for line in done.stdout.splitlines()]
    assert [file.name for file in files] == [
        f"{pyproject.parent.name}.cdx.json" for pyproject in PACKAGES
    ]
    assert all(file.exists() for file in files)
