"""The rules of combination."""

import json
from typing import Any

import pytest
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import Resolved, resolve, selecting


def policy(name: str, *probes: dict[str, Any], created: int = 0, **spec: Any) -> Policy:
    """A policy as the API gives it; `created` is a second."""
    about = {"name": name, "creationTimestamp": f"2026-01-01T00:00:{created:02}Z"}
    return Policy.of({"metadata": about, "spec": {"probes": list(probes), **spec}})


def resolved(*policies: Policy, labels: dict[str, str] | None = None) -> Resolved:
    """What they say together for a node with these labels."""
    return resolve(selecting(policies, labels or {}))


def settings(of: Resolved) -> Any:
    """What the agent is told."""
    return json.loads(of.settings)


def test_a_node_runs_the_union() -> None:
    """Probes of all policies that select the node run, each with its own options and filters."""
    made = resolved(
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
    assert settings(made) == {
        "probes": ["execve", "open"],
        "options": {"execve": {"args": 3}},
        "filters": {
            "open": {"include_path": ["/etc/"], "exclude_cgroup": [18446744073709551615, 7]}
        },
    }
    assert (made.policies, made.conflicts) == (("a", "b"), ())


def test_the_higher_priority_holds_as_a_whole() -> None:
    """Options and filters of a weaker policy are not mixed in, and no conflict is told: the priority says what is meant."""
    made = resolved(
        policy("base", {"name": "execve", "options": {"args": 3}, "filters": {"includeUid": [0]}}),
        policy("special", {"name": "execve", "options": {"env": True}}, priority=1, created=9),
    )
    assert settings(made) == {
        "probes": ["execve"],
        "options": {"execve": {"env": True}},
        "filters": {},
    }
    assert [of for _, of in made.probes] == ["special"]
    assert made.conflicts == ()


def test_a_probe_can_be_switched_off() -> None:
    """`enabled: false` of the stronger policy takes a probe away."""
    made = resolved(
        policy("base", {"name": "execve"}, {"name": "open"}),
        policy("off", {"name": "open", "enabled": False}, priority=1),
    )
    assert settings(made)["probes"] == ["execve"]


def test_of_equal_priority_the_older_holds_and_the_younger_is_told() -> None:
    """The order in which policies are given does not matter; one that says the same is in no conflict."""
    older = policy("z-older", {"name": "execve", "options": {"args": 1}}, created=1)
    younger = policy("a-younger", {"name": "execve", "options": {"args": 2}}, created=2)
    same = policy("same", {"name": "execve", "options": {"args": 1}}, created=3)
    for order in ((older, younger, same), (same, younger, older)):
        made = resolved(*order)
        assert settings(made)["options"] == {"execve": {"args": 1}}
        assert [(c.kind, c.name, c.policies) for c in made.conflicts] == [
            ("probe", "execve", ("z-older", "a-younger"))
        ]
    assert (
        "a-younger of the same priority says something else than z-older"
        in made.conflicts[0].reason
    )


def test_of_equal_age_the_name_decides() -> None:
    """Policies of one second, as one `kubectl apply` makes them, still have an order."""
    made = resolved(
        policy("b", {"name": "execve", "enabled": False}), policy("a", {"name": "execve"})
    )
    assert [of for _, of in made.probes] == ["a"]
    assert made.conflicts[0].policies == ("a", "b")


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
def test_what_counts_as_saying_something_else(
    one: dict[str, Any], other: dict[str, Any], differ: bool
) -> None:
    """Values of a filter have no order, options are compared as they are, and what is off is off."""
    made = resolved(policy("a", {"name": "p", **one}), policy("b", {"name": "p", **other}))
    assert bool(made.conflicts) == differ


def test_packages_follow_the_same_rule() -> None:
    """One version of a package holds; another of the same priority is a conflict."""
    made = resolved(
        policy("a", packages=[{"name": "probe-x", "version": "1.0"}], created=1),
        policy(
            "b",
            packages=[{"name": "probe-x", "version": "2.0"}, {"name": "probe-y", "version": "3"}],
            created=2,
        ),
    )
    assert [(package.name, package.version, of) for package, of in made.packages] == [
        ("probe-x", "1.0", "a"),
        ("probe-y", "3", "b"),
    ]
    assert [(c.kind, c.name, c.policies) for c in made.conflicts] == [
        ("package", "probe-x", ("a", "b"))
    ]


def test_the_digest_is_of_what_is_said_and_not_of_who_says_it() -> None:
    """Renaming or ordering policies changes nothing for the agent; an option, a filter or a package does."""
    base = resolved(policy("a", {"name": "execve"}, {"name": "open"}))
    assert (
        resolved(policy("b", {"name": "open"}), policy("c", {"name": "execve"})).digest
        == base.digest
    )
    others = [
        resolved(policy("a", {"name": "execve"})),
        resolved(policy("a", {"name": "execve", "options": {"x": 1}}, {"name": "open"})),
        resolved(policy("a", {"name": "execve", "filters": {"includeUid": [0]}}, {"name": "open"})),
        resolved(
            policy(
                "a", {"name": "execve"}, {"name": "open"}, packages=[{"name": "x", "version": "1"}]
            )
        ),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == len(others) + 1
    assert base.packages_digest == others[0].packages_digest != others[3].packages_digest


def test_no_policy_means_nothing_is_recorded() -> None:
    """A node that nothing selects is told to run no probe."""
    made = resolved(policy("a", {"name": "execve"}, nodeSelector={"matchLabels": {"zone": "b"}}))
    assert settings(made) == {"probes": [], "options": {}, "filters": {}}
    assert made.policies == ()


@pytest.mark.parametrize(
    ("selector", "fits"),
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
def test_selectors_mean_what_they_mean_everywhere(selector: dict[str, Any], fits: bool) -> None:
    """Labels and expressions select as in other objects of Kubernetes; an empty selector fits every node."""
    assert bool(selecting([policy("a", nodeSelector=selector)], {"zone": "a"})) == fits
