"""Decides which entries of a policy are used. The others are reported and affect nothing else.

The definitions of the custom resources make the API server reject most of what is rejected here;
this also covers objects that are older than their definition, and rules that no schema can state.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from attrs import evolve
from infrasight_core.settings.nesting import is_deeper
from infrasight_core.settings.reserved_names import RESERVED_NAMES, describe_reserved

from infrasight_operator.model.policy import (
    EntryKind,
    Policy,
    PolicyPackage,
    PolicyProbe,
    Rejection,
)

MAX_OPTIONS_BYTES = 64 << 10
MAX_OPTIONS_LEVELS = 16
_PROBE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_PACKAGE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_VERSION = re.compile(
    r"([0-9]+!)?[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?"
    r"(\+[a-z0-9]+(\.[a-z0-9]+)*)?",
    re.ASCII,
)
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_MAX_QUOTED = 100

Entry = TypeVar("Entry", PolicyProbe, PolicyPackage)


def admit(policy: Policy, allow_unhashed_packages: bool) -> Policy:
    """Returns a policy with its valid entries, and with the others as rejections.

    Args:
        policy: A parsed policy.
        allow_unhashed_packages: Whether the installation permits packages without hashes.
    """

    def check_package(package: PolicyPackage) -> str:
        return _find_package_problem(package, allow_unhashed_packages)

    rejections: list[Rejection] = []
    probes = _select(EntryKind.PROBE, policy.spec.probes, _find_probe_problem, rejections)
    packages = _select(EntryKind.PACKAGE, policy.spec.packages, check_package, rejections)
    spec = evolve(policy.spec, probes=tuple(probes), packages=tuple(packages))
    return evolve(policy, spec=spec, rejections=tuple(rejections))


def _select(
    kind: EntryKind,
    entries: Iterable[Entry],
    find_problem: Callable[[Entry], str],
    rejections: list[Rejection],
) -> Iterator[Entry]:
    for entry in entries:
        problem = find_problem(entry)
        if problem:
            rejections.append(Rejection(kind, entry.name[:_MAX_QUOTED], problem))
        else:
            yield entry


def _find_probe_problem(probe: PolicyProbe) -> str:
    """Returns why a probe is not used; empty if it is."""
    if probe.name in RESERVED_NAMES:
        return describe_reserved(probe.name)
    if not _PROBE_NAME.fullmatch(probe.name):
        return f"{probe.name[:_MAX_QUOTED]!r} is not the name of a probe"
    if is_deeper(probe.options, MAX_OPTIONS_LEVELS):
        return f"its options are nested more than {MAX_OPTIONS_LEVELS} levels deep"
    size = len(json.dumps(probe.options))
    if size > MAX_OPTIONS_BYTES:
        return f"its options have {size} bytes, more than {MAX_OPTIONS_BYTES}"
    return ""


def _find_package_problem(package: PolicyPackage, allow_unhashed: bool) -> str:
    """Returns why a package is not used; empty if it is."""
    if not _PACKAGE_NAME.fullmatch(package.name):
        return f"{package.name[:_MAX_QUOTED]!r} is not the normalized name of a package"
    if not _VERSION.fullmatch(package.version):
        return f"{package.version[:_MAX_QUOTED]!r} is not an exact version"
    for text in package.hashes:
        if not _HASH.fullmatch(text):
            return f"{text[:_MAX_QUOTED]!r} is not a hash, such as sha256:…"
    if not package.hashes and not allow_unhashed:
        return (
            "it has no hashes: add the hashes of its files, or set "
            "`packageIndex.allowUnhashedPackages` of the InfraSight object"
        )
    return ""
