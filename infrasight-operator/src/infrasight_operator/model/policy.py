"""A ProbePolicy object as frozen values."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from attrs import Factory, field, frozen

from infrasight_operator.model.parsing import parse
from infrasight_operator.model.selector import Selector

_CGROUP_FILTERS = ("includeCgroup", "excludeCgroup")


class EntryKind(StrEnum):
    """What an entry of a policy is; the values are field names of the API."""

    PROBE = "probe"
    PACKAGE = "package"


@frozen
class PolicyProbe:
    """A probe as one policy defines it.

    Attributes:
        name: The probe.
        enabled: Whether the probe runs.
        options: The probe's options.
        filters: Which events are recorded, by the API's field names.
    """

    name: str
    enabled: bool = True
    options: Mapping[str, Any] = Factory(dict)
    filters: Mapping[str, Any] = Factory(dict)

    def definition(self) -> str:
        """Text that is equal for two policies that define the probe alike.

        A disabled probe has one definition, whatever its options. JSON text distinguishes 1 from
        true, which Python's `==` does not.
        """
        if not self.enabled:
            return ""
        filters = {name: sorted(values, key=str) for name, values in self.agent_filters().items()}
        return json.dumps([self.options, filters], sort_keys=True)

    def agent_filters(self) -> dict[str, list[int | str]]:
        """The filters that have values, by the names of the agent's settings."""
        filters: dict[str, list[int | str]] = {}
        for name, values in self.filters.items():
            if not values:
                continue
            agent_name = re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)
            if name in _CGROUP_FILTERS:
                filters[agent_name] = [int(value) for value in values]
            else:
                filters[agent_name] = values
        return filters


@frozen
class PolicyPackage:
    """A Python package that agents need.

    Attributes:
        name: The normalized name.
        version: The exact version.
        hashes: The accepted file hashes; without any, the installation must permit the package.
    """

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    def definition(self) -> str:
        """Text that is equal for two policies that define the package alike."""
        return json.dumps([self.version, sorted(self.hashes)])


@frozen
class PolicySpec:
    """The spec of a ProbePolicy object.

    Attributes:
        node_selector: The nodes that the policy applies to.
        priority: The policy with the highest priority defines a probe or package.
        probes: The probes.
        packages: The packages.
    """

    node_selector: Selector = field(factory=Selector)
    priority: int = 0
    probes: tuple[PolicyProbe, ...] = ()
    packages: tuple[PolicyPackage, ...] = ()


@frozen
class Rejection:
    """An entry of a policy that is not used on any node.

    Attributes:
        kind: Whether it is a probe or a package.
        name: The probe or package.
        reason: Why it is not used.
    """

    kind: EntryKind
    name: str
    reason: str


@frozen
class Policy:
    """A policy.

    Attributes:
        name: The object's name.
        created: The creation time in the API's format, which sorts by time.
        spec: The object's spec.
        generation: The generation of the spec.
        rejections: Entries of the object that `spec` lacks because they are not admitted.
    """

    name: str
    created: str
    spec: PolicySpec
    generation: int = 0
    rejections: tuple[Rejection, ...] = ()

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> "Policy":
        """Parses an object of the Kubernetes API.

        Raises:
            ObjectError: The object does not match the schema.
        """
        metadata = body["metadata"]
        spec = parse(f"ProbePolicy {metadata['name']}", body.get("spec") or {}, PolicySpec)
        created = metadata.get("creationTimestamp") or ""
        return cls(metadata["name"], created, spec, metadata.get("generation", 0))
