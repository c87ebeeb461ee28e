"""Installs a node's packages one by one, beside the packages of the agent's image.

The packages of the image never change: they satisfy requirements, and none of them is copied into
the folder, which comes before them on the agent's path. A package with hashes is installed alone,
because nothing without a hash may come with it: its requirements must be in the image, or listed as
well. A package without hashes is installed only if this is explicitly allowed. It is resolved
first, with the versions of the image and of the other packages as constraints, and then what is
missing is installed, with the hashes of the files that were resolved.

Only wheels are installed, from one index.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog
from infrasight.v1.control_pb2 import Package
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from infrasight_core.errors import InstallError
from infrasight_core.packages.image import (
    find_hidden_module,
    find_unusable_plugin,
    image_paths,
    installed_versions,
    unmet_requirements,
)
from infrasight_core.packages.index import PackageIndex
from infrasight_core.packages.pip import run_pip
from infrasight_core.packages.report import InstalledPackage, PackageFailure, PackagesReport

log = structlog.get_logger(__name__)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_HASH = re.compile(r"sha(256|384|512):[0-9a-f]{64,128}", re.ASCII)


class Installation:
    """Installs packages into a folder.

    Args:
        target: The folder, which is empty.
        packages: The packages to install.
        seconds: The time limit for all of them together.
        index: Where they come from.
        allow_unhashed: Whether packages without hashes are installed.
    """

    def __init__(
        self,
        target: Path,
        packages: Iterable[Package],
        seconds: float,
        index: PackageIndex,
        allow_unhashed: bool = False,
    ) -> None:
        self._target = target
        self._index = index
        self._allow_unhashed = allow_unhashed
        self._packages = list(packages)
        self._deadline = time.monotonic() + seconds
        self._image = installed_versions(image_paths(target))

    def run(self) -> PackagesReport:
        """Installs every package that can be installed, and reports the outcome of each."""
        failures = self._install_all()
        self._check_requirements(failures)
        for name, reason in failures.items():
            log.error("package not installed", package=name, reason=reason)
        installed = tuple(
            InstalledPackage(package.name, package.version)
            for package in self._packages
            if package.name not in failures
        )
        failed = tuple(PackageFailure(name, reason) for name, reason in failures.items())
        return PackagesReport(installed, failed)

    def _install_all(self) -> dict[str, str]:
        """Installs the packages; returns the reasons of the failures by package."""
        failures: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix=".installing-", dir=self._target) as work:
            for number, package in enumerate(self._packages):
                try:
                    _require_valid(package)
                    self._install(package, Path(work) / str(number))
                except (InstallError, OSError) as error:
                    failures[package.name] = str(error)
        return failures

    def _check_requirements(self, failures: dict[str, str]) -> None:
        """Adds a failure for each installed package that lacks a requirement."""
        versions = self._versions()
        for package in self._packages:
            if package.name in failures:
                continue
            unmet = list(unmet_requirements(self._target, package.name, versions))
            if unmet:
                failures[package.name] = (
                    f"it is installed but requires {'; '.join(unmet)}: add that to the packages"
                )

    def _install(self, package: Package, work: Path) -> None:
        image_version = self._image.get(canonicalize_name(package.name))
        if image_version is not None:
            if Version(image_version) != Version(package.version):
                raise InstallError(
                    f"the agent's image has {package.name} {image_version}, and packages of the "
                    "image are not replaced: use an image with the required version"
                )
            return
        if not package.hashes and not self._allow_unhashed:
            raise InstallError(
                "it has no hashes: add the hashes of its files, or allow packages without hashes "
                "(`infrasight packages --allow-unhashed`; in a cluster, "
                "`packageIndex.allowUnhashedPackages` of the InfraSight object)"
            )
        work.mkdir(mode=0o700)
        if package.hashes:
            requirements = [_requirement(package.name, package.version, package.hashes)]
        else:
            requirements = self._resolve(package, work)
        if requirements:
            options = ("--require-hashes", "--no-deps", "--no-compile")
            self._pip(work, requirements, *options, "--target", str(work / "new"))
            self._merge(work / "new")
        log.info("package installed", package=package.name, version=package.version)

    def _resolve(self, package: Package, work: Path) -> list[str]:
        """Returns the package and its dependencies, except those that are already installed."""
        constraints: dict[str, str] = {
            canonicalize_name(other.name): other.version
            for other in self._packages
            if other is not package and not _find_mistake(other)
        }
        constraints |= self._versions()
        lines = [f"{name}=={version}\n" for name, version in constraints.items()]
        constraints_file = work / "constraints.txt"
        constraints_file.write_text("".join(lines), encoding="utf-8")
        report = work / "resolved.json"
        options = ("--dry-run", "--report", str(report), "--constraint", str(constraints_file))
        self._pip(work, [f"{package.name}=={package.version}"], *options)
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
        return [_resolved_requirement(item) for item in resolved]

    def _versions(self) -> dict[str, str]:
        """Returns the versions in the image and in the folder, by normalized name."""
        return self._image | installed_versions([str(self._target)])

    def _pip(self, work: Path, requirements: Iterable[str], *options: str) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise InstallError("the time limit for all packages was reached; see --timeout")
        # The index's URL may hold a password, so it is not an argument, which every user could see.
        file = work / "requirements.txt"
        lines = [*self._index.requirement_lines(), *requirements]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # With its cache, pip does not fetch again what it has resolved.
        cache = ("--cache-dir", str(work.parent / "cache"))
        arguments = (*self._index.options(), *cache, *options, "--requirement", str(file))
        # pip sees the packages in the folder, as the agent will.
        run_pip(arguments, {"PYTHONPATH": str(self._target)}, remaining)

    def _merge(self, new: Path) -> None:
        """Moves installed files into the folder; they may replace no file and hide no module."""
        files = [path.relative_to(new) for path in sorted(new.rglob("*")) if not path.is_dir()]
        existing = [file for file in files if (self._target / file).exists()]
        if existing:
            raise InstallError(
                f"another package has installed {existing[0]} and {len(existing) - 1} more of its "
                "files"
            )
        hidden = find_hidden_module(files, image_paths(self._target))
        if hidden:
            raise InstallError(f"it would hide {hidden} of the agent's image")
        unusable = find_unusable_plugin(new, [str(self._target), *image_paths(self._target)])
        if unusable:
            raise InstallError(unusable)
        for file in files:
            (self._target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(new / file, self._target / file)


def _requirement(name: str, version: str, hashes: Iterable[str]) -> str:
    """Returns the line of a requirements file."""
    return " ".join([f"{name}=={version}", *(f"--hash={digest}" for digest in hashes)])


def _resolved_requirement(item: dict[str, Any]) -> str:
    """Returns the requirement for a file that pip has resolved; raises InstallError."""
    metadata = item["metadata"]
    hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
    if "sha256" not in hashes:
        raise InstallError(f"the index gives no SHA-256 hash for {metadata['name']}")
    return _requirement(metadata["name"], metadata["version"], [f"sha256:{hashes['sha256']}"])


def _find_mistake(package: Package) -> str:
    """Returns what is malformed in a package; empty if nothing is.

    Name, version and hashes are written to files that pip reads, so they must not hold anything
    else.
    """
    if not _NAME.fullmatch(package.name):
        return f"{package.name!r} is not the name of a package"
    try:
        Version(package.version)
    except InvalidVersion:
        return f"{package.version!r} is not an exact version"
    if package.version != package.version.strip():  # `Version` ignores line breaks at the ends
        return f"{package.version!r} is not an exact version"
    for text in package.hashes:
        if not _HASH.fullmatch(text):
            return f"{text!r} is not a hash, such as sha256:…"
    return ""


def _require_valid(package: Package) -> None:
    mistake = _find_mistake(package)
    if mistake:
        raise InstallError(mistake)
