"""The report of `infrasight packages`: what it has installed beside the agent, and what it could not; the operator is told."""

import json
from pathlib import Path
from typing import Any

from attrs import asdict, frozen
from infrasight.v1.control_pb2 import Failure, Package

from infrasight_core.errors import ConfigError
from infrasight_core.settings.reader import parse_table

REPORT = "report.json"


@frozen
class InstalledPackage:
    """A package that is there.

    Attributes:
        name: Its name, as asked for.
        version: Its version.
    """

    name: str
    version: str


@frozen
class PackageFailure:
    """A package that is not there.

    Attributes:
        name: Its name, as asked for.
        reason: Why, in one line.
    """

    name: str
    reason: str


@frozen
class PackagesReport:
    """The file `report.json`.

    Attributes:
        installed: What is there.
        failures: What is not.
    """

    installed: tuple[InstalledPackage, ...] = ()
    failures: tuple[PackageFailure, ...] = ()

    def write(self, folder: Path) -> None:
        """Writes the file. Raises ConfigError where it cannot be written."""
        try:
            (folder / REPORT).write_text(
                json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"{folder / REPORT} cannot be written: {error.strerror}") from error


@frozen
class Installed:
    """The same for the wire.

    Attributes:
        packages: What is there.
        failures: What is not.
    """

    packages: tuple[Package, ...] = ()
    failures: tuple[Failure, ...] = ()


def read_report(folder: Path) -> Installed:
    """What the report in a folder says; one that cannot be read is itself a failure."""
    file = folder / REPORT
    try:
        table: Any = json.loads(file.read_text(encoding="utf-8"))
        report = parse_table(PackagesReport, table, (), str(file))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        return Installed(
            failures=(
                Failure(name=REPORT, reason=f"{file} cannot be read: {error}", is_package=True),
            )
        )
    return Installed(
        tuple(Package(name=package.name, version=package.version) for package in report.installed),
        tuple(
            Failure(name=package.name, reason=package.reason, is_package=True)
            for package in report.failures
        ),
    )
