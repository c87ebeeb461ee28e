"""What is installed in a folder, or in this Python without it, and whether that is all that something in it needs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


def versions_in(paths: list[str]) -> dict[str, str]:
    """The versions of the distributions in some folders, by normalized name; where one is there twice, the first counts."""
    found: dict[str, str] = {}
    for distribution in distributions(path=paths):
        if _is_version(distribution.version):
            found.setdefault(canonicalize_name(distribution.name), distribution.version)
    return found


def image_paths(target: Path) -> list[str]:
    """Where this Python looks for packages, but for the folder."""
    return [path for path in sys.path if Path(path).resolve() != target.resolve()]


def hides(files: Sequence[Path], paths: list[str]) -> str:
    """The first module that files would hide, were they before some folders on the path; empty where there is none.

    Args:
        files: As they lie below a folder of the path.
        paths: The folders.
    """
    packages = {
        file.parts[0] for file in files if len(file.parts) == 2 and file.name == "__init__.py"
    }
    modules = {
        file.name.partition(".")[0]
        for file in files
        if len(file.parts) == 1 and file.suffix in (".py", ".so")
    }
    for name in sorted(packages | modules):
        if PathFinder.find_spec(name, paths) is not None:
            return name
    shared = (
        file for file in files if file.suffix in (".py", ".so") and file.parts[0] not in packages
    )
    return next(
        (str(file) for file in shared if any((Path(path) / file).exists() for path in paths)), ""
    )


def lacking(target: Path, name: str, there: Mapping[str, str]) -> Iterator[str]:
    """What a distribution in the folder needs and is not there, each in some words.

    Args:
        target: The folder.
        name: The distribution's name.
        there: All versions, by normalized name.
    """
    for requirement in _requirements(
        next(iter(distributions(path=[str(target)], name=name)), None)
    ):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = there.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"{requirement}, which is not there"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement}, and {version} is there"


def _requirements(distribution: Distribution | None) -> Iterator[Requirement]:
    for text in (distribution.requires if distribution else None) or []:
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue  # pip has taken it, so it is an old form that pip alone still reads


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
