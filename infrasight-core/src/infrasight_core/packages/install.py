"""Installing a node's packages, one by one, beside what the agent's image holds.

What the image holds stays as it is: it satisfies what the packages need, and none of it is copied into the folder, which comes
before it on the agent's path. So a package without hashes is resolved first, with the image's versions and the other packages'
as constraints, and then exactly what that found missing is installed. A package with hashes is installed by itself, because
nothing that is not hashed may come with it: what it needs must be in the image or be named, too.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import structlog
from infrasight.v1.control_pb2 import Package
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from infrasight_core.errors import InstallError
from infrasight_core.packages.image import hides, image_paths, lacking, versions_in
from infrasight_core.packages.pip import run_pip
from infrasight_core.packages.report import InstalledPackage, PackageFailure, PackagesReport

log = structlog.get_logger(__name__)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_HASH = re.compile(r"sha(256|384|512):[0-9a-f]{64,128}", re.ASCII)


class Installation:
    """Installs into one folder.

    Args:
        target: The folder; empty.
        packages: What is wanted.
        seconds: How long all of it may take.
    """

    def __init__(self, target: Path, packages: Iterable[Package], seconds: float) -> None:
        self._target, self._packages = target, list(packages)
        self._deadline = time.monotonic() + seconds
        self._image = versions_in(image_paths(target))

    def run(self) -> PackagesReport:
        """Installs what can be installed; what became of each package."""
        failures: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix=".installing-", dir=self._target) as work:
            for number, package in enumerate(self._packages):
                try:
                    _check(package)
                    self._install(package, Path(work) / str(number))
                except (InstallError, OSError) as error:
                    failures[package.name] = str(error)
        there = self._image | versions_in([str(self._target)])
        for package in self._packages:
            if package.name not in failures and (
                lacks := list(lacking(self._target, package.name, there))
            ):
                failures[package.name] = (
                    f"it is installed, and needs {'; '.join(lacks)}: name it with the packages, too"
                )
        for name, reason in failures.items():
            log.error("package not installed", package=name, reason=reason)
        installed = [
            InstalledPackage(p.name, p.version) for p in self._packages if p.name not in failures
        ]
        return PackagesReport(
            tuple(installed),
            tuple(PackageFailure(name, reason) for name, reason in failures.items()),
        )

    def _install(self, package: Package, work: Path) -> None:
        name, wanted = canonicalize_name(package.name), Version(package.version)
        if name in self._image:
            if Version(self._image[name]) != wanted:
                raise InstallError(
                    f"the agent's image holds {package.name} {self._image[name]}, and what it holds is not replaced: "
                    "use an image with the wanted version"
                )
            return
        work.mkdir()
        if package.hashes:
            lines = [
                f"{package.name}=={package.version} "
                + " ".join(f"--hash={h}" for h in package.hashes)
            ]
        else:
            lines = self._resolved(package, work)
        if lines:
            listed = work / "requirements.txt"
            listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self._pip(
                work,
                "--no-deps",
                "--no-compile",
                "--target",
                str(work / "new"),
                "--requirement",
                str(listed),
            )
            self._merge(work / "new")
        log.info("package installed", package=package.name, version=package.version)

    def _resolved(self, package: Package, work: Path) -> list[str]:
        """The requirements that a package brings, itself among them: what neither the image nor the folder has."""
        held = self._image | versions_in([str(self._target)])
        pinned = {
            canonicalize_name(p.name): p.version
            for p in self._packages
            if p is not package and not _wrong(p)
        }
        constraints, report = work / "constraints.txt", work / "resolved.json"
        constraints.write_text(
            "".join(f"{n}=={v}\n" for n, v in (pinned | held).items()), encoding="utf-8"
        )
        asked = f"{package.name}=={package.version}"
        self._pip(
            work, "--dry-run", "--report", str(report), "--constraint", str(constraints), asked
        )
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
        return [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in found]

    def _pip(self, work: Path, *arguments: str) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise InstallError(
                "the time for installing packages was over before its turn came; see --timeout"
            )
        # pip sees what is in the folder, as the agent will; its cache spares it to fetch twice what it has resolved.
        paths = {"PYTHONPATH": str(self._target), "PIP_CACHE_DIR": str(work.parent / "cache")}
        run_pip(arguments, paths, left)

    def _merge(self, new: Path) -> None:
        """Moves what was installed into the folder. Packages may share folders, but no file, and hide none of the image's."""
        files = [path.relative_to(new) for path in sorted(new.rglob("*")) if not path.is_dir()]
        if taken := [file for file in files if (self._target / file).exists()]:
            raise InstallError(
                f"another package has brought {taken[0]}, and {len(taken) - 1} more of its files, already"
            )
        if hidden := hides(files, image_paths(self._target)):
            raise InstallError(f"it would hide {hidden}, which the agent's image holds")
        for file in files:
            (self._target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(new / file, self._target / file)


def _wrong(package: Package) -> str:
    """What is wrong with a package's words; they stand in files that pip reads, so nothing else may."""
    if not _NAME.fullmatch(package.name):
        return f"{package.name!r} is not the name of a package"
    try:
        Version(package.version)
    except InvalidVersion:
        return f"{package.version!r} is not an exact version"
    wrong = [text for text in package.hashes if not _HASH.fullmatch(text)]
    return f"{wrong[0]!r} is not a hash, such as sha256:…" if wrong else ""


def _check(package: Package) -> None:
    if wrong := _wrong(package):
        raise InstallError(wrong)
