"""The rules by which policies combine into a node's configuration."""

import json
from typing import Any

import pytest
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import NodeConfiguration, resolve, select_policies


def policy(name: str, *probes: dict[str, Any], created: int = 0, **spec: Any) -> Policy:
    """A policy; `created` is the second of its creation time."""
    metadata = {"name": name, "creationTimestamp": f"2026-01-01T00:00:{created:02}Z"}
    return Policy.from_object({"metadata": metadata, "spec": {"probes": list(probes), **spec}})


def resolve_for(*policies: Policy, labels: dict[str, str] | None = None) -> NodeConfiguration:
    """The configuration of a node with these labels."""
    return resolve(select_policies(policies, labels or {}))


def settings(configuration: NodeConfiguration) -> Any:
    """The settings that the agent receives."""
    return json.loads(configuration.settings)


def test_node_runs_union_of_policies() -> None:
    """The probes of all policies that select the node run, each with its options and filters."""
    configuration = resolve_for(
        policy("a", {"name": "execve", "options": {"args": 3}}),
        policy(
            "b",
            {
                "name": "open",
                "filters": {"includePath": ["/etc/"], "excludeCgroup": ["18446744073709551615", 7]},
            },
        ),
        policy("c", {"name": "chmod"}, nodeSelector={"matchLabels": {"zone": "elsewhere"}}),
        labels={"zone": "here"},
    )
    assert settings(configuration) == {
        "probes": ["execve", "open"],
        "options": {"execve": {"args": 3}},
        "filters": {
            "open": {"include_path": ["/etc/"], "exclude_cgroup": [18446744073709551615, 7]}
        },
    }
    assert (configuration.policies, configuration.conflicts) == (("a", "b"), ())


def test_higher_priority_defines_the_whole_probe() -> None:
    """A stronger policy replaces options and filters of a weaker one, without a conflict."""
    configuration = resolve_for(
        policy("base", {"name": "execve", "options": {"args": 3}, "filters": {"includeUid": [0]}}),
        policy("special", {"name": "execve", "options": {"env": True}}, priority=1, created=9),
    )
    assert settings(configuration) == {
        "probes": ["execve"],
        "options": {"execve": {"env": True}},
        "filters": {},
    }
    assert [policy for _, policy in configuration.probes] == ["special"]
    assert configuration.conflicts == ()


def test_stronger_policy_disables_a_probe() -> None:
    """`enabled: false` in the stronger policy removes the probe."""
    configuration = resolve_for(
        policy("base", {"name": "execve"}, {"name": "open"}),
        policy("off", {"name": "open", "enabled": False}, priority=1),
    )
    assert settings(configuration)["probes"] == ["execve"]


def test_older_policy_wins_and_younger_is_in_conflict() -> None:
    """The order of the input does not matter; an equal definition is no conflict."""
    older = policy("z-older", {"name": "execve", "options": {"args": 1}}, created=1)
    younger = policy("a-younger", {"name": "execve", "options": {"args": 2}}, created=2)
    same = policy("same", {"name": "execve", "options": {"args": 1}}, created=3)
    for order in ((older, younger, same), (same, younger, older)):
        configuration = resolve_for(*order)
        assert settings(configuration)["options"] == {"execve": {"args": 1}}
        assert [
            (conflict.kind, conflict.name, conflict.policies)
            for conflict in configuration.conflicts
        ] == [("probe", "execve", ("z-older", "a-younger"))]
    assert (
        "a-younger defines it differently than z-older, which has the same priority"
        in configuration.conflicts[0].reason
    )


def test_name_decides_between_policies_of_equal_age() -> None:
    """Policies that one `kubectl apply` creates in the same second have an order."""
    configuration = resolve_for(
        policy("b", {"name": "execve", "enabled": False}), policy("a", {"name": "execve"})
    )
    assert [policy for _, policy in configuration.probes] == ["a"]
    assert configuration.conflicts[0].policies == ("a", "b")


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ({"options": {"a": 1}}, {"options": {"a": True}}, True),
        ({"options": {"a": [1, 2]}}, {"options": {"a": [2, 1]}}, True),
        ({"filters": {"includeUid": [1, 2]}}, {"filters": {"includeUid": [2, 1]}}, False),
        ({"filters": {"includeUid": []}}, {}, False),
        ({"enabled": False}, {"enabled": False, "options": {"a": 1}}, False),
        ({"enabled": False}, {}, True),
    ],
)
def test_definitions_are_compared_by_meaning(
    one: dict[str, Any], other: dict[str, Any], differ: bool
) -> None:
    """Filter values have no order, options are compared exactly, disabled probes are equal."""
    configuration = resolve_for(
        policy("a", {"name": "p", **one}), policy("b", {"name": "p", **other})
    )
    assert bool(configuration.conflicts) == differ


def test_packages_combine_like_probes() -> None:
    """The older policy defines a package; another version of the same priority is a conflict."""
    configuration = resolve_for(
        policy("a", packages=[{"name": "probe-x", "version": "1.0"}], created=1),
        policy(
            "b",
            packages=[{"name": "probe-x", "version": "2.0"}, {"name": "probe-y", "version": "3"}],
            created=2,
        ),
    )
    assert [
        (package.name, package.version, policy) for package, policy in configuration.packages
    ] == [
        ("probe-x", "1.0", "a"),
        ("probe-y", "3", "b"),
    ]
    assert [
        (conflict.kind, conflict.name, conflict.policies) for conflict in configuration.conflicts
    ] == [("package", "probe-x", ("a", "b"))]


def test_digest_depends_on_definitions_not_on_policies() -> None:
    """Names and order of policies do not change the digest; options, filters and packages do."""
    base = resolve_for(policy("a", {"name": "execve"}, {"name": "open"}))
    assert (
        resolve_for(policy("b", {"name": "open"}), policy("c", {"name": "execve"})).digest
        == base.digest
    )
    others = [
        resolve_for(policy("a", {"name": "execve"})),
        resolve_for(policy("a", {"name": "execve", "options": {"x": 1}}, {"name": "open"})),
        resolve_for(
            policy("a", {"name": "execve", "filters": {"includeUid": [0]}}, {"name": "open"})
        ),
        resolve_for(
            policy(
                "a", {"name": "execve"}, {"name": "open"}, packages=[{"name": "x", "version": "1"}]
            )
        ),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == len(others) + 1
    assert base.packages_digest == others[0].packages_digest != others[3].packages_digest


def test_node_without_policy_runs_no_probe() -> None:
    """The configuration of a node that no policy selects has no probes."""
    configuration = resolve_for(
        policy("a", {"name": "execve"}, nodeSelector={"matchLabels": {"zone": "b"}})
    )
    assert settings(configuration) == {"probes": [], "options": {}, "filters": {}}
    assert configuration.policies == ()


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {"zone": "a"}}, True),
        ({"matchLabels": {"zone": "a", "gpu": "yes"}}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["a"]}]}, True),
        (
            {
                "matchExpressions": [
                    {"key": "zone", "operator": "Exists"},
                    {"key": "gpu", "operator": "DoesNotExist"},
                ]
            },
            True,
        ),
        ({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, False),
    ],
)
def test_selectors_match_like_kubernetes_selectors(selector: dict[str, Any], matches: bool) -> None:
    """Labels and expressions match as in Kubernetes; an empty selector matches every node."""
    selected = select_policies([policy("a", nodeSelector=selector)], {"zone": "a"})
    assert bool(selected) == matches
