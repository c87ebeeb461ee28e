"""Which entries of a policy are used, and which effects of policies are reported."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from infrasight_core.settings.reserved_names import RESERVED_NAMES
from infrasight_operator.model.admission import admit
from infrasight_operator.model.agent_report import Report
from infrasight_operator.model.blind_filters import describe_blindness
from infrasight_operator.model.policy import EntryKind, Policy
from infrasight_operator.model.resolution import MAX_PROBES, resolve, select_policies
from infrasight_operator.status.node_probes import NodeState, NodeView
from infrasight_operator.status.policy_status import policy_status

HASH = f"sha256:{'0' * 64}"
CHART = Path(__file__).parents[2] / "helm" / "infrasight"
CRDS = CHART / "crds"


def policy(name: str = "p", **spec: Any) -> Policy:
    """A policy."""
    return Policy.from_object({"metadata": {"name": name}, "spec": spec})


def admitted(allow_unhashed_packages: bool = False, **spec: Any) -> tuple[list[str], list[str]]:
    """The names of the entries of a policy that are used, and of those that are not."""
    result = admit(policy(**spec), allow_unhashed_packages)
    used = [probe.name for probe in result.spec.probes]
    used += [package.name for package in result.spec.packages]
    return used, [rejection.name for rejection in result.rejections]


def condition(policies: list[Policy], name: str, condition_type: str) -> dict[str, Any]:
    """A condition of one of several policies that select the same node."""
    configuration = resolve(select_policies(policies, {}))
    (subject,) = [policy for policy in policies if policy.name == name]
    status = policy_status(subject, [NodeView("n", configuration)], {}, "now")
    return next(entry for entry in status["conditions"] if entry["type"] == condition_type)


def test_definitions_and_schema_reserve_the_same_names_as_the_core() -> None:
    """The custom resources' rules and the chart's schema list exactly the reserved names."""
    rules = []
    for file in (CRDS / "probepolicies.yaml", CRDS / "infrasights.yaml"):
        text = file.read_text(encoding="utf-8")
        rules += [line.partition(" in [")[2].partition("]")[0] for line in text.splitlines()]
    listed = [set(yaml.safe_load(f"[{rule}]")) for rule in rules if "'all'" in rule]
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert listed == [RESERVED_NAMES, RESERVED_NAMES]
    assert set(schema["definitions"]["reserved"]["enum"]) == RESERVED_NAMES


def test_invalid_probe_is_left_out_alone() -> None:
    """Reserved and malformed names and excessive options are rejected; other probes are used."""
    nested: Any = 1
    for _ in range(17):
        nested = {"x": nested}
    probes = [
        {"name": "execve", "options": {"x": [[1]]}},
        {"name": "all"},
        {"name": "Open"},
        {"name": "large", "options": {"x": "y" * (64 << 10)}},
        {"name": "deep", "options": nested},
        {"name": "chmod"},
    ]
    assert admitted(probes=probes) == (["execve", "chmod"], ["all", "Open", "large", "deep"])


@pytest.mark.parametrize(
    ("package", "is_used"),
    [
        ({"name": "x", "version": "1", "hashes": [HASH]}, True),
        ({"name": "x", "version": "1"}, False),
        ({"name": "x", "version": "1", "hashes": [HASH, "sha256:0"]}, False),
        ({"name": "x", "version": ">=1", "hashes": [HASH]}, False),
        ({"name": "x @ https://example.com/x.whl", "version": "1", "hashes": [HASH]}, False),
        ({"name": "--index-url=https://example.com", "version": "1", "hashes": [HASH]}, False),
        ({"name": "./x", "version": "1", "hashes": [HASH]}, False),
        ({"name": "x[extra]", "version": "1", "hashes": [HASH]}, False),
        ({"name": "x\n--no-index", "version": "1", "hashes": [HASH]}, False),
        ({"name": "x", "version": "1 --pre", "hashes": [HASH]}, False),
    ],
)
def test_package_needs_a_name_an_exact_version_and_hashes(
    package: dict[str, Any], is_used: bool
) -> None:
    """Options of pip, URLs, paths and extras are no names; versions are exact."""
    used, rejected = admitted(packages=[package])
    assert (len(used), len(rejected)) == ((1, 0) if is_used else (0, 1))


def test_installation_may_permit_packages_without_hashes() -> None:
    """With `allowUnhashedPackages`, a package without hashes is used."""
    packages = [{"name": "x", "version": "1"}]
    assert admitted(allow_unhashed_packages=True, packages=packages) == (["x"], [])


@pytest.mark.parametrize(
    ("filters", "is_blind"),
    [
        ({}, False),
        ({"excludeUid": [0]}, False),
        ({"excludePath": ["/etc/", "/"]}, True),
        ({"includePath": ["/etc/", "/usr/"], "excludePath": ["/etc/"]}, False),
        ({"includePath": ["/etc/ssh/"], "excludePath": ["/etc/"]}, True),
        ({"includePath": ["/etc/"], "excludePath": ["/etc/ssh/"]}, False),
        ({"includeUid": [0, 1], "excludeUid": [1]}, False),
        ({"includeCgroup": [1], "excludeCgroup": ["1"]}, True),
        ({"includeComm": ["sh"], "excludeComm": ["sh", "bash"]}, True),
        ({"includePid": [7], "excludePid": [7]}, True),
    ],
)
def test_filters_that_exclude_everything_are_recognized(
    filters: dict[str, Any], is_blind: bool
) -> None:
    """Every path, or every included value, is excluded."""
    assert bool(describe_blindness(filters)) == is_blind
    probes = [{"name": "open", "filters": filters}]
    assert condition([policy(probes=probes)], "p", "RecordsNothing")["status"] == str(is_blind)


def test_override_is_reported_unless_the_definitions_are_equal() -> None:
    """A policy learns which one of a higher priority defines or disables its probe."""
    low = policy("low", probes=[{"name": "open"}, {"name": "execve"}])
    same = policy("same", priority=1, probes=[{"name": "execve"}])
    assert condition([low, same], "low", "Overridden")["status"] == "False"
    high = policy("high", priority=2, probes=[{"name": "open", "enabled": False}])
    reported = condition([low, same, high], "low", "Overridden")
    assert reported["status"] == "True"
    assert "open: high, which has a higher priority, disables it" in reported["message"]
    assert condition([low, same, high], "high", "Overridden")["status"] == "False"


def test_rejection_is_reported_by_the_policy() -> None:
    """`Accepted` and `Ready` name the entry that is not used, and the reason."""
    subject = admit(policy(probes=[{"name": "all"}, {"name": "open"}]), False)
    accepted = condition([subject], "p", "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "Rejected")
    assert "probe all: 'all' is a reserved word" in accepted["message"]
    assert condition([subject], "p", "Ready")["status"] == "False"


def test_probes_beyond_the_limit_are_those_of_the_lowest_priority() -> None:
    """A node's configuration is bounded; what does not fit is a failure of its policy."""
    crowd = policy("crowd", probes=[{"name": f"a{n}"} for n in range(MAX_PROBES)])
    large = [{"name": f"b{n}", "options": {"x": "y" * 60_000}} for n in range(10)]
    first = policy("first", priority=1, probes=[{"name": "z"}, *large])
    configuration = resolve(select_policies([crowd, first], {}))
    names = [probe.name for probe, _ in configuration.probes]
    assert len(names) == MAX_PROBES
    assert "z" in names
    assert names == sorted(names)
    left_out = [(probe.name, owner) for probe, owner in configuration.oversized]
    assert [owner for _, owner in left_out].count("first") == 2
    assert len(left_out) == len(large) + 1
    running = tuple(probe.name for probe, _ in configuration.probes)
    report = Report("n", "pod", "1.0", digest=configuration.digest, running=running)
    view = NodeView("n", configuration, report, connected=True)
    assert view.state().name is NodeState.FAILED
    assert "has no room" in view.failure(EntryKind.PROBE, left_out[0][0])
