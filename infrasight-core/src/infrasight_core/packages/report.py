"""The report of `infrasight packages`, which the agent sends on to the operator."""

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
    """A package that is installed.

    Attributes:
        name: The name by which it was requested.
        version: The installed version.
    """

    name: str
    version: str


@frozen
class PackageFailure:
    """A package that is not installed.

    Attributes:
        name: The name by which it was requested.
        reason: The reason, in one line.
    """

    name: str
    reason: str


@frozen
class PackagesReport:
    """The content of `report.json`.

    Attributes:
        installed: The packages that are installed.
        failures: The packages that are not.
    """

    installed: tuple[InstalledPackage, ...] = ()
    failures: tuple[PackageFailure, ...] = ()

    def write(self, folder: Path) -> None:
        """Writes `report.json` to a folder. Raises ConfigError if it cannot be written."""
        file = folder / REPORT
        text = json.dumps(asdict(self), indent=2) + "\n"
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from error


@frozen
class ReportMessages:
    """A packages report as messages of the control protocol.

    Attributes:
        packages: The packages that are installed.
        failures: The packages that are not.
    """

    packages: tuple[Package, ...] = ()
    failures: tuple[Failure, ...] = ()


def read_report(folder: Path) -> ReportMessages:
    """Reads `report.json` from a folder; a report that cannot be read is itself a failure."""
    file = folder / REPORT
    try:
        table: Any = json.loads(file.read_text(encoding="utf-8"))
        report = parse_table(PackagesReport, table, (), str(file))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        reason = f"cannot read {file}: {error}"
        return ReportMessages(failures=(Failure(name=REPORT, reason=reason, is_package=True),))
    return ReportMessages(
        tuple(Package(name=package.name, version=package.version) for package in report.installed),
        tuple(
            Failure(name=failure.name, reason=failure.reason, is_package=True)
            for failure in report.failures
        ),
    )
