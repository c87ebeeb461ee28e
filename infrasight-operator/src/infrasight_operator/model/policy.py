"""A ProbePolicy as people wrote it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen

from infrasight_operator.model.parsing import read
from infrasight_operator.model.selector import Selector

_CGROUPS = ("includeCgroup", "excludeCgroup")


@frozen
class PolicyProbe:
    """What a policy says of one probe.

    Attributes:
        name: The probe.
        enabled: Whether it is to run.
        options: Its own options.
        filters: Which events are recorded, by the names of the API.
    """

    name: str
    enabled: bool = True
    options: Mapping[str, Any] = Factory(dict)
    filters: Mapping[str, Any] = Factory(dict)

    def definition(self) -> str:
        """Equal where two policies say the same of it; of one that is not to run, nothing else matters."""
        if not self.enabled:
            return ""
        filters = {kind: sorted(values, key=str) for kind, values in self.agent_filters().items()}
        return json.dumps(
            [self.options, filters], sort_keys=True
        )  # as text, in which 1 and true are not the same

    def agent_filters(self) -> dict[str, list[int | str]]:
        """The filters by the names of the agent's settings; a kind without values says nothing."""
        return {
            re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", kind): [int(v) for v in values]
            if kind in _CGROUPS
            else values
            for kind, values in self.filters.items()
            if values
        }


@frozen
class PolicyPackage:
    """A Python package that agents need.

    Attributes:
        name: Its normalised name.
        version: Exactly this one.
        hashes: What its files must hash to; none: not checked.
    """

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    def definition(self) -> str:
        """Equal where two policies say the same of it."""
        return json.dumps([self.version, sorted(self.hashes)])


@frozen
class PolicySpec:
    """What a policy wants.

    Attributes:
        node_selector: On which nodes.
        priority: The highest holds.
        probes: Of probes.
        packages: Of packages.
    """

    node_selector: Selector = field(factory=Selector)
    priority: int = 0
    probes: tuple[PolicyProbe, ...] = ()
    packages: tuple[PolicyPackage, ...] = ()


@frozen
class Policy:
    """A policy.

    Attributes:
        name: Its name.
        created: When it was made, as the API writes it: these sort by time.
        spec: What it wants.
        generation: Of the spec.
        uid: Of the object.
    """

    name: str
    created: str
    spec: PolicySpec
    generation: int = 0
    uid: str = ""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Policy":
        """Reads an object of the API. Raises ObjectError."""
        about = body["metadata"]
        spec = read(f"ProbePolicy {about['name']}", body.get("spec") or {}, PolicySpec)
        return cls(
            about["name"],
            about.get("creationTimestamp") or "",
            spec,
            about.get("generation", 0),
            about.get("uid", ""),
        )
