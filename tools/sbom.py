"""Writes software bills of materials as CycloneDX JSON into dist/sbom.

    python tools/sbom.py                 one for each package: what it needs, from requirements.lock
    python tools/sbom.py --image IMAGE…  one for each image of podman: all that it holds

The same files and images give the same bills. A package's bill has the hashes of every file that
the lock allows; an image's has the installed Python distributions and Debian packages.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setup import LOCK, ROOT, SetUpError

OUTPUT = ROOT / "dist" / "sbom"
PINNED = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+)(?P<rest>.*)$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
SITE_PACKAGES = "opt/infrasight/lib/python*/site-packages"
DPKG_STATUS = "var/lib/dpkg/status"


def main(arguments: list[str]) -> int:
    """Writes the bills; returns 0, or 1 after one line with the cause."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", nargs="+", default=[], help="images, in place of packages")
    parser.add_argument("--podman", default="podman", help="the command, with its options")
    settings = parser.parse_args(arguments)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        if settings.image:
            for image in settings.image:
                write(image_bill(shlex.split(settings.podman), image))
        else:
            for pyproject in sorted(ROOT.glob("infrasight-*/pyproject.toml")):
                write(package_bill(pyproject))
    except (SetUpError, subprocess.CalledProcessError) as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    return 0


def write(bill: Bom) -> None:
    """Writes a bill, named after its subject, and prints the file's name."""
    subject = bill.metadata.component
    assert subject is not None
    file = OUTPUT / f"{subject.name.rpartition('/')[2].replace(':', '-')}.cdx.json"
    file.write_text(to_json(bill), encoding="utf-8")
    print(f"{file.relative_to(ROOT)}: {len(bill.components)} components")


def to_json(bill: Bom) -> str:
    """The text of a bill. It has no time, and a serial number that follows from its content."""
    bill.serial_number = uuid.UUID(int=0)
    content = json.loads(JsonV1Dot6(bill).output_as_string())
    del content["metadata"]["timestamp"]
    del content["serialNumber"]
    text = json.dumps(content, sort_keys=True)
    content["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, text).urn
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def package_bill(pyproject: Path) -> Bom:
    """The bill of a package of this repository: all packages that it needs, with their hashes."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    locked = {component.name: component for component in locked_components()}
    subject = python_component(project["name"], project["version"], ComponentType.APPLICATION)
    bill = Bom()
    bill.metadata.component = subject
    components = {subject.name: subject}
    pending = [subject]
    while pending:
        component = pending.pop()
        needed = []
        for name in requirements_of(component.name):
            if name not in components:
                components[name] = locked.get(name) or own_component(name)
                bill.components.add(components[name])
                pending.append(components[name])
            needed.append(components[name])
        bill.register_dependency(component, needed)
    return bill


def own_component(name: str) -> Component:
    """A package of this repository."""
    return python_component(name, metadata.version(name))


def requirements_of(name: str) -> Iterator[str]:
    """The normalized names of what an installed distribution requires on this system."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def locked_components() -> Iterator[Component]:
    """What the lock pins. Of a package with several versions, the one that is installed."""
    for line in LOCK.read_text(encoding="utf-8").replace(" \\\n", " ").splitlines():
        pinned = PINNED.match(line)
        if pinned is None:
            raise SetUpError(f"{LOCK.name} has an unexpected line: {line[:80]}")
        marker = pinned["rest"].partition(" ;")[2].partition(" --hash")[0]
        requirement = Requirement(f"{pinned['name']} ; {marker}" if marker else pinned["name"])
        if requirement.marker is None or requirement.marker.evaluate():
            component = python_component(pinned["name"], pinned["version"])
            for digest in HASH.findall(line):
                component.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
            yield component


def python_component(
    name: str, version: str, kind: ComponentType = ComponentType.LIBRARY
) -> Component:
    """A Python distribution."""
    url = PackageURL("pypi", name=name, version=version)
    return Component(name=name, version=version, type=kind, purl=url, bom_ref=url.to_string())


def image_bill(podman: list[str], image: str) -> Bom:
    """The bill of an image: its Python distributions and Debian packages."""
    inspected = run([*podman, "image", "inspect", image])
    digest = json.loads(inspected)[0]["Digest"]
    bill = Bom()
    bill.metadata.component = Component(
        name=image, version=digest, type=ComponentType.CONTAINER, bom_ref=image
    )
    root = Path(run([*podman, "image", "mount", image]).strip())
    try:
        components = [*python_components(root), *debian_components(root)]
    finally:
        run([*podman, "image", "unmount", image])
    for component in components:
        bill.components.add(component)
    bill.register_dependency(bill.metadata.component, components)
    return bill


def run(command: list[str]) -> str:
    """Runs a command; returns its output."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def python_components(root: Path) -> Iterator[Component]:
    """The distributions in the virtual environment of an image."""
    folders = [str(folder) for folder in root.glob(SITE_PACKAGES)]
    for distribution in metadata.distributions(path=folders):
        name = canonicalize_name(distribution.metadata["Name"])
        yield python_component(name, distribution.version)


def debian_components(root: Path) -> Iterator[Component]:
    """The Debian packages of an image."""
    status = (root / DPKG_STATUS).read_text(encoding="utf-8")
    for fields in stanzas(status.splitlines()):
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name = fields["Package"]
        version = fields["Version"]
        url = PackageURL(
            "deb", "debian", name, version, qualifiers={"arch": fields["Architecture"]}
        )
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=url.to_string(),
        )


def stanzas(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """The records of a file like /var/lib/dpkg/status; continued lines are omitted."""
    fields: dict[str, str] = {}
    for line in (*lines, ""):
        if not line:
            if fields:
                yield fields
            fields = {}
        elif not line.startswith(" "):
            name, _, value = line.partition(": ")
            fields[name] = value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
