"""Combines the policies that select a node into the node's configuration."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from attrs import frozen

from infrasight_operator.model.policy import EntryKind, Policy, PolicyPackage, PolicyProbe

# The API server stores objects of up to 1.5 MB, and an agent receives messages of up to 4 MB.
MAX_PROBES = 256
MAX_PROBES_BYTES = 512 << 10


class _PolicyEntry(Protocol):
    """A probe or a package, as a policy defines it."""

    @property
    def name(self) -> str:
        """The probe or package."""

    def definition(self) -> str:
        """Text that is equal for two policies that define the entry alike."""


Entry = TypeVar("Entry", bound=_PolicyEntry)


@frozen
class Conflict:
    """Policies of equal priority that define a probe or package differently.

    Attributes:
        kind: Whether it is a probe or a package.
        name: The probe or package.
        policies: The policies; the definition of the first one is used.
    """

    kind: EntryKind
    name: str
    policies: tuple[str, ...]

    @property
    def reason(self) -> str:
        """A sentence that names the policies and the remedy."""
        used, *others = self.policies
        verb = "define" if len(others) > 1 else "defines"
        return (
            f"{self.kind} {self.name}: {' and '.join(others)} {verb} it differently than {used}, "
            "which has the same priority and is older, so its definition is used; make the "
            "definitions equal, or give one policy a higher priority"
        )


@frozen
class Override:
    """An entry of a policy that a policy of higher priority replaces.

    Attributes:
        kind: Whether it is a probe or a package.
        name: The probe or package.
        policy: The policy whose definition is not used.
        by: The policy whose definition is used.
        is_disabled: Whether the definition that is used disables the probe.
    """

    kind: EntryKind
    name: str
    policy: str
    by: str
    is_disabled: bool

    @property
    def reason(self) -> str:
        """A sentence that names the other policy and its effect."""
        verb = "disables" if self.is_disabled else "defines"
        return f"{self.kind} {self.name}: {self.by}, which has a higher priority, {verb} it"


@frozen
class NodeConfiguration:
    """The probes and packages of a node.

    Attributes:
        digest: Equal for equal settings and packages, whichever policies they come from.
        settings: JSON for the agent: probes, options, filters.
        probes: The enabled probes by name, each with the name of the policy that defines it.
        packages: The packages by name, each with the name of the policy that defines it.
        policies: The policies that select the node, by descending precedence.
        conflicts: The conflicts between these policies.
        overrides: The entries that policies of higher priority define differently.
        oversized: The enabled probes for which there is no room in the configuration, by name, each
            with the name of the policy that defines it.
    """

    digest: str
    settings: str
    probes: tuple[tuple[PolicyProbe, str], ...]
    packages: tuple[tuple[PolicyPackage, str], ...]
    policies: tuple[str, ...]
    conflicts: tuple[Conflict, ...]
    overrides: tuple[Override, ...] = ()
    oversized: tuple[tuple[PolicyProbe, str], ...] = ()

    @property
    def packages_digest(self) -> str:
        """Equal for equal packages."""
        return _digest(_package_keys(self.packages))

    def entries(self, policy: str | None = None) -> Iterator[tuple[EntryKind, str]]:
        """Kind and name of all probes and packages, or of those that one policy defines."""
        for probe, defining_policy in (*self.probes, *self.oversized):
            if policy in (None, defining_policy):
                yield EntryKind.PROBE, probe.name
        for package, defining_policy in self.packages:
            if policy in (None, defining_policy):
                yield EntryKind.PACKAGE, package.name


def select_policies(policies: Iterable[Policy], labels: Mapping[str, str]) -> tuple[Policy, ...]:
    """The policies that select a node with these labels, by descending precedence.

    A higher priority comes first, then the older policy, then the name.
    """
    selected = [policy for policy in policies if policy.spec.node_selector.matches(labels)]
    selected.sort(key=lambda policy: (-policy.spec.priority, policy.created, policy.name))
    return tuple(selected)


def resolve(policies: Sequence[Policy]) -> NodeConfiguration:
    """Combines policies, given by descending precedence, into one configuration.

    The first policy that names a probe defines all of it, even if it disables the probe. A later
    policy of the same priority that defines the probe differently is in conflict. The same rules
    apply to packages.
    """
    overrides: list[Override] = []
    probes, probe_conflicts = _combine(
        EntryKind.PROBE, [(p, p.spec.probes) for p in policies], overrides
    )
    packages, package_conflicts = _combine(
        EntryKind.PACKAGE, [(p, p.spec.packages) for p in policies], overrides
    )
    names = [policy.name for policy in policies]
    wanted = [(probe, policy) for probe, policy in probes if probe.enabled]
    enabled, oversized = _limit(wanted, names)
    settings: dict[str, Any] = {
        "probes": [probe.name for probe, _ in enabled],
        "options": {},
        "filters": {},
    }
    for probe, _ in enabled:
        if probe.options:
            settings["options"][probe.name] = probe.options
        filters = probe.agent_filters()
        if filters:
            settings["filters"][probe.name] = filters
    return NodeConfiguration(
        digest=_digest([settings, _package_keys(packages)]),
        settings=_to_json(settings),
        probes=enabled,
        packages=packages,
        policies=tuple(policy.name for policy in policies),
        conflicts=(*probe_conflicts, *package_conflicts),
        overrides=tuple(overrides),
        oversized=oversized,
    )


def _limit(
    probes: Iterable[tuple[PolicyProbe, str]], policies: Sequence[str]
) -> tuple[tuple[tuple[PolicyProbe, str], ...], tuple[tuple[PolicyProbe, str], ...]]:
    """Divides probes into those that the configuration has room for, and the others.

    A policy of higher precedence comes first, so that no other one takes its room.
    """
    fitting: list[tuple[PolicyProbe, str]] = []
    oversized: list[tuple[PolicyProbe, str]] = []
    size = 0
    for probe, policy in sorted(probes, key=lambda entry: policies.index(entry[1])):
        probe_size = len(_to_json([probe.name, probe.options, dict(probe.filters)]).encode())
        if len(fitting) < MAX_PROBES and size + probe_size <= MAX_PROBES_BYTES:
            size += probe_size
            fitting.append((probe, policy))
        else:
            oversized.append((probe, policy))
    return tuple(sorted(fitting, key=_name)), tuple(sorted(oversized, key=_name))


def _name(entry: tuple[PolicyProbe, str]) -> str:
    return entry[0].name


@frozen
class _Combined(Generic[Entry]):
    """An entry with the policy that defines it, and the policies that disagree."""

    entry: Entry
    policy: Policy
    disagreeing: list[str]


def _combine(
    kind: EntryKind,
    definitions: Sequence[tuple[Policy, Iterable[Entry]]],
    overrides: list[Override],
) -> tuple[tuple[tuple[Entry, str], ...], tuple[Conflict, ...]]:
    combined: dict[str, _Combined[Entry]] = {}
    for policy, entries in definitions:
        for entry in entries:
            first = combined.get(entry.name)
            if first is None:
                combined[entry.name] = _Combined(entry, policy, [])
            elif first.entry.definition() == entry.definition():
                continue
            elif first.policy.spec.priority == policy.spec.priority:
                first.disagreeing.append(policy.name)
            else:
                is_disabled = not first.entry.definition()
                overrides.append(
                    Override(kind, entry.name, policy.name, first.policy.name, is_disabled)
                )
    ordered = sorted(combined.items())
    conflicts = [
        Conflict(kind, name, (first.policy.name, *first.disagreeing))
        for name, first in ordered
        if first.disagreeing
    ]
    return tuple((first.entry, first.policy.name) for _, first in ordered), tuple(conflicts)


def _package_keys(packages: Iterable[tuple[PolicyPackage, str]]) -> list[list[Any]]:
    return [[package.name, package.version, sorted(package.hashes)] for package, _ in packages]


def _digest(value: Any) -> str:
    return hashlib.sha256(_to_json(value).encode()).hexdigest()[:32]


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
