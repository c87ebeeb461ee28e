"""What statuses say, and when."""

from typing import Any

from infrasight_operator.model.agent_report import Failure, Report
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.policy import Policy
from infrasight_operator.model.resolution import resolve
from infrasight_operator.status.installation_status import installation_status
from infrasight_operator.status.node_probes import NodeView, State, report_of, status_of
from infrasight_operator.status.policy_status import PROBLEMS, policy_status

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def policy(name: str, *probes: str, **spec: Any) -> Policy:
    """A policy of these probes."""
    spec = {"probes": [{"name": probe} for probe in probes], **spec}
    return Policy.of({"metadata": {"name": name, "generation": 3}, "spec": spec})


BASE = policy("base", "execve", "open")
WANTED = resolve([BASE])


def view(name: str = "n", connected: bool = True, wanted: Any = WANTED, **said: Any) -> NodeView:
    """A node whose agent reports what is wanted, but for what is said."""
    report = Report(
        name, "pod", "1.0", **{"digest": wanted.digest, "running": ("execve", "open"), **said}
    )
    return NodeView(name, wanted, report, connected)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    """One of the conditions."""
    return next(c for c in status["conditions"] if c["type"] == kind)


def test_states_of_a_node() -> None:
    """Each state has its cause, and the message names it."""
    nothing = resolve([])
    cases = {
        State.RUNNING: view(),
        State.IDLE: view(wanted=nothing, running=()),
        State.DISCONNECTED: view(connected=False),
        State.FAILED: view(
            failures=(Failure("open", "no such tracepoint", False),), running=("execve",)
        ),
    }
    for state, node in cases.items():
        assert node.state()[0] is state
    assert "open: no such tracepoint" in cases[State.FAILED].state()[2]
    for pending in (NodeView("n", WANTED), view(digest="old"), view(running=("execve",))):
        assert pending.state()[0] is State.PENDING
    rejected = view(rejected="filters.all: not a table")
    assert rejected.state() == (
        State.FAILED,
        "Rejected",
        "the agent rejected the configuration: filters.all: not a table",
    )


def test_not_streaming_is_not_ready() -> None:
    """A node that records but reaches no server is not ready, and the reason stands there."""
    ready = view(not_streaming="UNAVAILABLE: connection refused").ready()
    assert (ready.status, ready.reason) == (False, "NotStreaming")
    assert "connection refused" in ready.message


def test_a_status_keeps_what_an_agent_said_and_since_when() -> None:
    """A transition has its own time; what a report said is read back from the status as it was."""
    first = status_of(view(packages=(("x", "1"),)), {}, NOW)
    again = status_of(view(packages=(("x", "1"),)), first, LATER)
    assert again == first
    gone = status_of(view(packages=(("x", "1"),), connected=False), first, LATER)
    assert condition(gone, "Ready")["lastTransitionTime"] == LATER
    assert gone["connected"] is False
    assert report_of("n", gone) == view(packages=(("x", "1"),)).report


def test_a_policy_counts_its_nodes() -> None:
    """Each node that it selects is running, pending or failed, by what this policy holds for; problems name node and probe."""
    other = policy("other", "chmod")
    both = resolve([BASE, other])
    views = [
        view("a"),
        view("b", digest="old"),
        view("c", running=("execve",), failures=(Failure("open", "broken", False),)),
        view("d", wanted=both, failures=(Failure("chmod", "broken too", False),)),
        view("e", wanted=resolve([other])),
    ]
    status = policy_status(BASE, views, {}, NOW)
    assert status["nodes"] == {"selected": 4, "running": 2, "pending": 1, "failed": 1}
    assert status["problems"] == [{"node": "c", "probe": "open", "reason": "broken"}]
    assert status["observedGeneration"] == 3
    assert condition(status, "Ready")["status"] == "False"
    assert "c: open: broken" in condition(status, "Ready")["message"]
    assert condition(status, "Conflict")["status"] == "False"


def test_problems_are_bounded() -> None:
    """Of many problems the first stand there, and how many more there are."""
    views = [
        view(f"n{number:03}", running=("execve",), failures=(Failure("open", "x", False),))
        for number in range(60)
    ]
    status = policy_status(BASE, views, {}, NOW)
    assert (len(status["problems"]), status["moreProblems"]) == (PROBLEMS, 10)
    assert status["problems"][0]["node"] == "n000"


def test_a_conflict_stands_with_the_policy_that_does_not_hold() -> None:
    """The older policy is told nothing; the younger one is, with the name of the other."""
    younger = policy("younger", probes=[{"name": "execve", "options": {"a": 1}}])
    disputed = resolve([BASE, younger])
    views = [view(wanted=disputed)]
    assert condition(policy_status(BASE, views, {}, NOW), "Conflict")["status"] == "False"
    conflict = condition(policy_status(younger, views, {}, NOW), "Conflict")
    assert conflict["status"] == "True"
    assert "than base, which is older" in conflict["message"]


def test_the_installation_adds_up() -> None:
    """Nodes, connected, configured, ready and failing; what the API server refuses is said."""
    about = {"name": "infrasight", "namespace": "n", "uid": "u", "generation": 2}
    spec = {"agent": {"image": "a"}, "server": {"address": "s:1", "plaintext": True}}
    installation = Installation.of({"metadata": about, "spec": spec})
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
    assert condition(rejected, "Applied") == {
        **condition(rejected, "Applied"),
        "status": "False",
        "message": "apply DaemonSet: quota",
    }
    assert (
        condition(installation_status(installation, views[:1], "", {}, NOW), "Ready")["status"]
        == "True"
    )
