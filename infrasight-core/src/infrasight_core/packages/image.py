"""Inspects installed distributions: their versions, their unmet requirements, modules they hide."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from infrasight_core.plugin.hookspecs import ENTRY_POINT_GROUP
from infrasight_core.settings.reserved_names import RESERVED_NAMES, describe_reserved

_MODULE_SUFFIXES = (".py", ".so")


def installed_versions(paths: list[str]) -> dict[str, str]:
    """Returns the versions of the distributions in some folders, by normalized name.

    Of two distributions with the same name, the first one counts, as it does for an import.
    """
    versions: dict[str, str] = {}
    for distribution in distributions(path=paths):
        if _is_version(distribution.version):
            versions.setdefault(canonicalize_name(distribution.name), distribution.version)
    return versions


def image_paths(target: Path) -> list[str]:
    """Returns the folders where this Python looks for packages, without the target folder."""
    return [path for path in sys.path if Path(path).resolve() != target.resolve()]


def find_hidden_module(files: Sequence[Path], paths: list[str]) -> str:
    """Returns the first module that files would hide in some folders; empty if there is none.

    Args:
        files: Files of a folder that comes before those folders on the path, relative to it.
        paths: The folders.
    """
    packages = set()
    modules = set()
    for file in files:
        if len(file.parts) == 2 and file.name == "__init__.py":
            packages.add(file.parts[0])
        elif len(file.parts) == 1 and file.suffix in _MODULE_SUFFIXES:
            modules.add(file.name.partition(".")[0])
    for name in sorted(packages | modules):
        if PathFinder.find_spec(name, paths) is not None:
            return name
    for file in files:  # of namespace packages, whose folders may be shared but not their files
        if file.suffix not in _MODULE_SUFFIXES or file.parts[0] in packages:
            continue
        if any((Path(path) / file).exists() for path in paths):
            return str(file)
    return ""


def find_unusable_plugin(new: Path, paths: list[str]) -> str:
    """Returns why a plugin in new distributions cannot be used; empty if each can.

    Args:
        new: The folder of the new distributions.
        paths: The folders of the installed ones, whose plugins must not be replaced.
    """
    installed = _plugin_names(paths)
    for name in sorted(_plugin_names([str(new)])):
        if name in RESERVED_NAMES:
            return f"its plugin has a reserved name: {describe_reserved(name)}"
        if name in installed:
            return f"it has a plugin called {name!r}, which is installed already"
    return ""


def _plugin_names(paths: list[str]) -> set[str]:
    return {
        point.name
        for distribution in distributions(path=paths)
        for point in distribution.entry_points
        if point.group == ENTRY_POINT_GROUP
    }


def unmet_requirements(target: Path, name: str, versions: Mapping[str, str]) -> Iterator[str]:
    """Yields a description of each requirement of a distribution that is not met.

    Args:
        target: The folder of the distribution.
        name: The distribution's name.
        versions: All installed versions, by normalized name.
    """
    distribution = next(iter(distributions(path=[str(target)], name=name)), None)
    for requirement in _requirements(distribution):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"{requirement}, which is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement}, but {version} is installed"


def _requirements(distribution: Distribution | None) -> Iterator[Requirement]:
    for text in (distribution.requires if distribution else None) or []:
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue  # pip installed it, so this is a legacy form that only pip still reads


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
