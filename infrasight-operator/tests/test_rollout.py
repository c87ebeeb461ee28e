"""Which pods are replaced because of their packages, and how many at once."""

from collections.abc import Mapping
from typing import Any

from infrasight_operator.model.agent_report import Failure, Report
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import NodeConfiguration, resolve
from infrasight_operator.rollout import (
    LEAST_POD_SECONDS,
    RECONNECT_SECONDS,
    needs_new_pod,
    nodes_to_restart,
)
from infrasight_operator.status.node_probes import NodeView

NOW = 1000.0


def with_packages(*packages: tuple[str, str]) -> NodeConfiguration:
    """A configuration with these packages."""
    spec = {"packages": [{"name": name, "version": version} for name, version in packages]}
    return resolve([Policy.from_object({"metadata": {"name": "p"}, "spec": spec})])


X2 = with_packages(("x", "2"))


def view(
    name: str,
    packages: tuple[tuple[str, str], ...] = (("x", "1"),),
    connected: bool = True,
    failures: tuple[Failure, ...] = (),
    **fields: Any,
) -> NodeView:
    """A node whose configuration has version 2 of x, and whose agent reports other packages."""
    report = Report(name, f"pod-{name}", packages=packages, failures=failures)
    return NodeView(name, X2, report, connected, **fields)


def restarts(
    views: list[NodeView],
    limit: int | str = 2,
    disconnected_for: float = 0,
    restarted_at: Mapping[str, float] | None = None,
) -> list[str]:
    """The nodes to restart, if the disconnected ones have been so for some seconds."""
    since = {view.name: NOW - disconnected_for for view in views if not view.connected}
    return nodes_to_restart(views, limit, since, restarted_at or {}, NOW)


def test_different_packages_need_a_new_pod() -> None:
    """Another version, a missing package and a surplus package each need a new pod."""
    assert needs_new_pod(view("a"))
    assert needs_new_pod(view("a", packages=()))
    assert needs_new_pod(view("a", packages=(("x", "2"), ("y", "1"))))
    assert not needs_new_pod(view("a", packages=(("x", "2"),)))


def test_failed_package_does_not_restart_its_pod_again() -> None:
    """A pod that received the current packages stays even if they could not be installed."""
    failures = (Failure("x", "no such version", True),)
    current = view("a", (), failures=failures, pod_packages_digest=X2.packages_digest)
    assert not needs_new_pod(current)
    older_digest = with_packages(("x", "1")).packages_digest
    outdated = view("a", (), failures=failures, pod_packages_digest=older_digest)
    assert needs_new_pod(outdated)


def test_pod_that_could_not_ask_for_packages_is_replaced() -> None:
    """Without packages on either side, a package failure shows that the pod could not ask."""
    failure = Failure("packages", "the operator did not answer", True)
    assert needs_new_pod(NodeView("a", with_packages(), Report("a", failures=(failure,)), True))


def test_restarts_stay_within_max_unavailable() -> None:
    """Disconnected agents count towards the limit, whether it is a number or a percentage."""
    views = [view(name) for name in "abcde"]
    assert restarts(views) == ["a", "b"]
    assert restarts([view("a", connected=False), *views[1:]]) == ["b"]
    assert restarts([view("a", connected=False), view("b", connected=False), *views[2:]]) == []
    assert restarts(views, "20%") == ["a"]


def test_pod_that_is_still_ending_counts_as_unavailable() -> None:
    """A deleted pod's agent stays connected until it ends; no other pod is replaced meanwhile."""
    views = [view(name) for name in "abc"]
    assert restarts(views, 1, restarted_at={"a": NOW - 1}) == []
    assert restarts(views, 2, restarted_at={"a": NOW - 1}) == ["b"]
    replaced = view("a", packages=(("x", "2"),))
    assert restarts([replaced, *views[1:]], 1, restarted_at={"a": NOW - 1}) == ["b"]


def test_new_pod_stays_for_a_while() -> None:
    """Packages that change again and again do not restart the same node each time."""
    views = [view("a"), view("b")]
    recently = {"a": NOW - LEAST_POD_SECONDS + 1}
    assert restarts(views, restarted_at=recently) == ["b"]
    assert restarts(views, restarted_at={"a": NOW - LEAST_POD_SECONDS}) == ["a", "b"]


def test_nodes_with_current_packages_are_not_restarted() -> None:
    """Only nodes with other packages are restarted."""
    assert restarts([view("a", packages=(("x", "2"),)), view("b")]) == ["b"]


def test_disconnected_agent_is_restarted_after_a_while() -> None:
    """A pod whose packages may keep its agent from connecting is replaced, but not too often."""
    lost = view("a", connected=False)
    assert restarts([lost], disconnected_for=RECONNECT_SECONDS - 1) == []
    assert restarts([lost], disconnected_for=RECONNECT_SECONDS) == ["a"]
    recently = {"a": NOW - RECONNECT_SECONDS + 1}
    assert restarts([lost], disconnected_for=RECONNECT_SECONDS * 5, restarted_at=recently) == []


def test_new_operator_restarts_nothing_before_agents_connect() -> None:
    """When an operator starts, all agents are disconnected; that alone restarts no pod."""
    assert restarts([view(name, connected=False) for name in "abc"]) == []
