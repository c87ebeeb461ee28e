"""The statuses of nodes, policies and the installation."""

from typing import Any

from infrasight_operator.model.agent_report import Failure, Report
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import NodeConfiguration, resolve
from infrasight_operator.status.installation_status import installation_status
from infrasight_operator.status.node_probes import (
    NodeState,
    NodeView,
    node_probes_status,
    report_from_status,
)
from infrasight_operator.status.policy_status import MAX_PROBLEMS, policy_status

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-02T00:00:00Z"


def policy(name: str, *probes: str, **spec: Any) -> Policy:
    """A policy with these probes."""
    spec = {"probes": [{"name": probe} for probe in probes], **spec}
    return Policy.from_object({"metadata": {"name": name, "generation": 3}, "spec": spec})


BASE = policy("base", "execve", "open")
CONFIGURATION = resolve([BASE])


def view(
    name: str = "n",
    connected: bool = True,
    configuration: NodeConfiguration = CONFIGURATION,
    **fields: Any,
) -> NodeView:
    """A node whose agent runs both probes; `fields` are fields of its report that differ."""
    working = {"digest": configuration.digest, "running": ("execve", "open")}
    report = Report(name, "pod", "1.0", **{**working, **fields})
    return NodeView(name, configuration, report, connected)


def condition(status: dict[str, Any], name: str) -> dict[str, Any]:
    """One of the status's conditions."""
    return next(entry for entry in status["conditions"] if entry["type"] == name)


def test_each_node_state_has_its_cause() -> None:
    """Each state follows from the configuration and the report, and a failure names its cause."""
    failures = (Failure("open", "no such tracepoint", False),)
    failed = view(failures=failures, running=("execve",))
    assert view().state().name is NodeState.RUNNING
    assert view(configuration=resolve([]), running=()).state().name is NodeState.IDLE
    assert view(connected=False).state().name is NodeState.DISCONNECTED
    assert failed.state().name is NodeState.FAILED
    assert "open: no such tracepoint" in failed.state().message
    for pending in (NodeView("n", CONFIGURATION), view(digest="old"), view(running=("execve",))):
        assert pending.state().name is NodeState.PENDING
    rejected = view(rejected="filters.all: not a table").state()
    assert (rejected.name, rejected.reason) == (NodeState.FAILED, "Rejected")
    assert rejected.message == "the agent rejected the configuration: filters.all: not a table"


def test_node_that_does_not_stream_is_not_ready() -> None:
    """A node that records but reaches no server is not ready, and the message names the cause."""
    ready = view(not_streaming="UNAVAILABLE: connection refused").ready()
    assert (ready.status, ready.reason) == (False, "NotStreaming")
    assert "connection refused" in ready.message


def test_node_status_preserves_report_and_transition_times() -> None:
    """A condition keeps its time until its status changes; the report can be restored."""
    packages = (("x", "1"),)
    first = node_probes_status(view(packages=packages), {}, NOW)
    assert node_probes_status(view(packages=packages), first, LATER) == first
    disconnected = node_probes_status(view(packages=packages, connected=False), first, LATER)
    assert condition(disconnected, "Ready")["lastTransitionTime"] == LATER
    assert disconnected["connected"] is False
    assert report_from_status("n", disconnected) == view(packages=packages).report


def test_policy_status_counts_its_nodes() -> None:
    """Each selected node is running, pending or failed, judged by what this policy defines."""
    other = policy("other", "chmod")
    both = resolve([BASE, other])
    views = [
        view("a"),
        view("b", digest="old"),
        view("c", running=("execve",), failures=(Failure("open", "broken", False),)),
        view("d", configuration=both, failures=(Failure("chmod", "broken too", False),)),
        view("e", configuration=resolve([other])),
    ]
    status = policy_status(BASE, views, {}, NOW)
    assert status["nodes"] == {"selected": 4, "running": 2, "pending": 1, "failed": 1}
    assert status["problems"] == [{"node": "c", "probe": "open", "reason": "broken"}]
    assert status["observedGeneration"] == 3
    assert condition(status, "Ready")["status"] == "False"
    assert "c: open: broken" in condition(status, "Ready")["message"]
    assert condition(status, "Conflict")["status"] == "False"


def test_policy_status_limits_problems() -> None:
    """The status lists the first problems by node, and counts the others."""
    failures = (Failure("open", "x", False),)
    views = [
        view(f"n{number:03}", running=("execve",), failures=failures)
        for number in range(MAX_PROBLEMS + 10)
    ]
    status = policy_status(BASE, views, {}, NOW)
    assert (len(status["problems"]), status["moreProblems"]) == (MAX_PROBLEMS, 10)
    assert status["problems"][0]["node"] == "n000"


def test_only_the_overruled_policy_reports_a_conflict() -> None:
    """The younger policy reports the conflict and names the older one; the older one does not."""
    younger = policy("younger", probes=[{"name": "execve", "options": {"a": 1}}])
    views = [view(configuration=resolve([BASE, younger]))]
    assert condition(policy_status(BASE, views, {}, NOW), "Conflict")["status"] == "False"
    conflict = condition(policy_status(younger, views, {}, NOW), "Conflict")
    assert conflict["status"] == "True"
    assert "than base, which has the same priority and is older" in conflict["message"]


def test_installation_status_sums_its_nodes() -> None:
    """The status counts nodes by what they have reached, and reports the API server's rejection."""
    metadata = {"name": "infrasight", "namespace": "n", "uid": "u", "generation": 2}
    spec = {"agent": {"image": "a"}, "server": {"address": "s:1", "plaintext": True}}
    installation = Installation.from_object({"metadata": metadata, "spec": spec})
    views = [
        view("a"),
        view("b", connected=False),
        view("c", rejected="no"),
        view("d", digest="old"),
    ]
    status = installation_status(installation, views, "", {}, NOW)
    counts = {key: status[key] for key in ("nodes", "connected", "configured", "ready", "failing")}
    assert counts == {"nodes": 4, "connected": 3, "configured": 2, "ready": 1, "failing": 1}
    assert condition(status, "Ready")["reason"] == "Failing"
    rejected = installation_status(installation, views[:1], "apply DaemonSet: quota", {}, NOW)
    applied = condition(rejected, "Applied")
    assert (applied["status"], applied["reason"]) == ("False", "Rejected")
    assert applied["message"] == "apply DaemonSet: quota"
    healthy = installation_status(installation, views[:1], "", {}, NOW)
    assert condition(healthy, "Ready")["status"] == "True"
