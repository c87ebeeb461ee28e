"""Which pods are replaced for the sake of packages, and how many at once."""

from collections.abc import Mapping
from typing import Any

from infrasight_operator.model.agent_report import Failure, Report
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import Resolved, resolve
from infrasight_operator.rollout import PATIENCE, needs_packages, to_restart
from infrasight_operator.status.node_probes import NodeView


def wanted(*packages: tuple[str, str]) -> Resolved:
    """A configuration with these packages."""
    spec = {"packages": [{"name": name, "version": version} for name, version in packages]}
    return resolve([Policy.of({"metadata": {"name": "p"}, "spec": spec})])


NEW = wanted(("x", "2"))


def view(
    name: str,
    installed: tuple[tuple[str, str], ...] = (("x", "1"),),
    connected: bool = True,
    **more: Any,
) -> NodeView:
    """A node that wants x 2."""
    failures = more.pop("failures", ())
    return NodeView(
        name,
        NEW,
        Report(name, f"pod-{name}", packages=installed, failures=failures),
        connected,
        **more,
    )


def restarts(
    views: list[NodeView],
    limit: int | str = 2,
    away: float = 0,
    restarted: Mapping[str, float] | None = None,
) -> list[str]:
    """The nodes, where those that are away have been so for some seconds."""
    return to_restart(
        views, limit, {v.name: 1000 - away for v in views if not v.connected}, restarted or {}, 1000
    )


def test_other_packages_replace_the_pod() -> None:
    """Another version, one that is missing, and one too many."""
    assert needs_packages(view("a"))
    assert needs_packages(view("a", installed=()))
    assert needs_packages(view("a", installed=(("x", "2"), ("y", "1"))))
    assert not needs_packages(view("a", installed=(("x", "2"),)))


def test_a_pod_that_was_told_just_these_is_left_alone() -> None:
    """A package that does not install does not restart its pod for ever."""
    failed = (Failure("x", "no such version", True),)
    assert not needs_packages(
        view("a", installed=(), failures=failed, packages_asked=NEW.packages_digest)
    )
    assert needs_packages(
        view("a", installed=(), failures=failed, packages_asked=wanted(("x", "1")).packages_digest)
    )


def test_a_pod_that_could_not_ask_is_replaced() -> None:
    """Nothing is wanted and nothing is there, but the failure says that it does not know."""
    node = NodeView(
        "a",
        wanted(),
        Report("a", failures=(Failure("packages", "the operator did not answer", True),)),
        True,
    )
    assert needs_packages(node)


def test_a_few_at_a_time() -> None:
    """As many as may be away, less those that are."""
    views = [view(name) for name in "abcde"]
    assert restarts(views) == ["a", "b"]
    assert restarts([view("a", connected=False), *views[1:]]) == ["b"]
    assert restarts([view("a", connected=False), view("b", connected=False), *views[2:]]) == []
    assert restarts(views, "20%") == ["a"]


def test_those_that_are_as_wanted_do_not_count() -> None:
    """Only what differs is replaced."""
    assert restarts([view("a", installed=(("x", "2"),)), view("b")]) == ["b"]


def test_an_agent_that_does_not_come_is_helped() -> None:
    """After a while a pod is replaced without hearing from it: perhaps its packages keep it from starting."""
    lost = view("a", connected=False)
    assert restarts([lost], away=PATIENCE - 1) == []
    assert restarts([lost], away=PATIENCE) == ["a"]
    assert restarts([lost], away=PATIENCE * 5, restarted={"a": 1000 - PATIENCE + 1}) == []


def test_an_operator_that_has_just_started_replaces_nothing() -> None:
    """All agents are away then; that says nothing."""
    assert restarts([view(name, connected=False) for name in "abc"]) == []
