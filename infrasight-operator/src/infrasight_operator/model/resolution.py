"""The rules of combination: what the policies that select a node say together."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from attrs import frozen

from infrasight_operator.model.policy import Policy, PolicyPackage, PolicyProbe


class _Thing(Protocol):
    """A probe or a package, as a policy says it."""

    @property
    def name(self) -> str:
        """Whom it is of."""

    def definition(self) -> str:
        """Equal where two policies say the same."""


Said = TypeVar("Said", bound=_Thing)


@frozen
class Conflict:
    """Policies of equal priority that say different things.

    Attributes:
        kind: probe or package.
        name: Its name.
        policies: Who disagree; the first one holds.
    """

    kind: str
    name: str
    policies: tuple[str, ...]

    @property
    def reason(self) -> str:
        """In one sentence."""
        holds, *others = self.policies
        return (
            f"{self.kind} {self.name}: {' and '.join(others)} of the same priority says something else than {holds}, "
            "which is older and holds; make them say the same, or give one a higher priority"
        )


@frozen
class Resolved:
    """What a node is to record.

    Attributes:
        digest: Equal where settings and packages are equal, whoever said so.
        settings: JSON for the agent: probes, options, filters.
        probes: The probes that are to run, each with the name of the policy that holds for it, by name.
        packages: The packages, likewise.
        policies: The policies that select the node, the strongest first.
        conflicts: Where they disagree.
    """

    digest: str
    settings: str
    probes: tuple[tuple[PolicyProbe, str], ...]
    packages: tuple[tuple[PolicyPackage, str], ...]
    policies: tuple[str, ...]
    conflicts: tuple[Conflict, ...]

    @property
    def packages_digest(self) -> str:
        """Equal where the packages are equal."""
        return _digest(
            [
                (package.name, package.version, sorted(package.hashes))
                for package, _ in self.packages
            ]
        )


def selecting(policies: Iterable[Policy], labels: Mapping[str, str]) -> tuple[Policy, ...]:
    """The policies that select a node with these labels, the strongest first: by priority, age and name."""
    chosen = [policy for policy in policies if policy.spec.node_selector.fits(labels)]
    return tuple(
        sorted(chosen, key=lambda policy: (-policy.spec.priority, policy.created, policy.name))
    )


def resolve(policies: Sequence[Policy]) -> Resolved:
    """What policies, the strongest first, say together.

    Of a probe the strongest policy that names it holds as a whole, also when it says that it shall not run. A weaker one of the
    same priority that says something else is in conflict with it. Packages likewise.
    """
    probes, probe_conflicts = _held("probe", [(policy, policy.spec.probes) for policy in policies])
    packages, package_conflicts = _held(
        "package", [(policy, policy.spec.packages) for policy in policies]
    )
    running = tuple((probe, policy) for probe, policy in probes if probe.enabled)
    settings = {
        "probes": [probe.name for probe, _ in running],
        "options": {probe.name: probe.options for probe, _ in running if probe.options},
        "filters": {
            probe.name: filters for probe, _ in running if (filters := probe.agent_filters())
        },
    }
    told = [(package.name, package.version, sorted(package.hashes)) for package, _ in packages]
    return Resolved(
        _digest([settings, told]),
        _json(settings),
        running,
        packages,
        tuple(policy.name for policy in policies),
        (*probe_conflicts, *package_conflicts),
    )


def _held(
    kind: str, said: Sequence[tuple[Policy, Iterable[Said]]]
) -> tuple[tuple[tuple[Said, str], ...], tuple[Conflict, ...]]:
    holds: dict[str, tuple[Said, Policy]] = {}
    others: dict[str, list[str]] = {}
    for policy, things in said:
        for thing in things:
            if thing.name not in holds:
                holds[thing.name] = thing, policy
                continue
            strongest, of = holds[thing.name]
            if (
                of.spec.priority == policy.spec.priority
                and strongest.definition() != thing.definition()
            ):
                others.setdefault(thing.name, []).append(policy.name)
    conflicts: list[Conflict] = []
    for disputed, whose in sorted(others.items()):
        conflicts.append(Conflict(kind, disputed, (holds[disputed][1].name, *whose)))
    return tuple((thing, policy.name) for _, (thing, policy) in sorted(holds.items())), tuple(
        conflicts
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:32]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
