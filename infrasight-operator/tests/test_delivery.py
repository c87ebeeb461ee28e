"""What agents hear and say: real gRPC clients, a real operator, a real API server."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from infrasight.v1 import control_pb2
from infrasight_operator.model.agent_report import MAX_BYTES
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.follower import Follower, configuration_of
from infrasight_testbed.operator_process import Installed
from infrasight_testbed.system import Process, until

MakeNode = Callable[..., str]
Follow = Callable[..., Follower]


def state(installed: Installed, node: str) -> dict[str, Any]:
    """A node's status."""
    found: dict[str, Any] = installed.get("nodeprobes", node).get("status", {})
    return found


def events(control_plane: ControlPlane, installed: Installed, name: str) -> list[str]:
    """The reasons of the Events of an object."""
    found = control_plane.objects("events", installed.namespace)
    return [event["reason"] for event in found if event["involvedObject"]["name"] == name]


def started(installed: Installed) -> Process:
    """An installation with an operator and a policy of two probes."""
    installed.install()
    installed.policy("base", "execve", {"name": "open", "filters": {"excludePath": ["/proc/"]}})
    return installed.start()


def test_a_change_reaches_the_agent_and_its_report_the_statuses(
    installed: Installed, node: MakeNode, follow: Follow
) -> None:
    """Down comes what the policies say, again when they change; up goes what runs, into node, policy and installation."""
    a = node("a")
    operator = started(installed)
    agent = follow(a)
    first = agent.obey(installed=["execve", "open"])
    assert json.loads(first.settings) == {
        "probes": ["execve", "open"],
        "options": {},
        "filters": {"open": {"exclude_path": ["/proc/"]}},
    }
    until(
        lambda: installed.condition("infrasight", "infrasight", "Ready").get("status") == "True",
        "all is ready",
    )
    status = state(installed, a)
    assert (status["state"], status["connected"], status["pod"]) == ("Running", True, "pod")
    assert (status["running"], status["appliedDigest"]) == (["execve", "open"], first.digest)
    assert installed.get("probepolicy", "base")["status"]["nodes"] == {
        "selected": 1,
        "running": 1,
        "pending": 0,
        "failed": 0,
    }
    installed.policy("more", {"name": "chmod", "options": {"depth": 2}})
    second = agent.next()
    assert json.loads(second.settings)["options"] == {"chmod": {"depth": 2}}
    until(
        lambda: installed.condition("probepolicy", "more", "Ready").get("reason") == "Pending",
        "the agent has not said so",
    )
    agent.report(digest=second.digest, running=["chmod", "execve", "open"])
    until(
        lambda: installed.condition("probepolicy", "more", "Ready")["status"] == "True",
        "the agent has said so",
    )
    assert operator.metric("infrasight_operator_connected_agents") == 1
    assert operator.metric('infrasight_operator_nodes{state="Running"}') == 1
    agent.close()
    until(lambda: state(installed, a)["state"] == "Disconnected", "the agent has gone")
    assert state(installed, a)["running"] == ["chmod", "execve", "open"]
    until(
        lambda: installed.condition("infrasight", "infrasight", "Ready")["status"] == "False",
        "not ready",
    )


def test_a_probe_that_fails_hurts_itself_only(
    installed: Installed, node: MakeNode, follow: Follow, control_plane: ControlPlane
) -> None:
    """The reason stands with the node and with the policy that wants the probe, and an Event is posted, once."""
    a, b = node("a"), node("b")
    started(installed)
    follow(a).obey()
    agent = follow(b)
    broken = [("open", "open: unknown option 'x'", False)]
    agent.obey(running=["execve"], failures=broken)
    until(lambda: state(installed, b).get("state") == "Failed", "the node says so")
    until(
        lambda: installed.get("probepolicy", "base")["status"]["nodes"]["failed"] == 1,
        "the policy says so",
    )
    status = installed.get("probepolicy", "base")["status"]
    assert status["nodes"] == {"selected": 2, "running": 1, "pending": 0, "failed": 1}
    assert status["problems"] == [
        {"node": b, "probe": "open", "reason": "open: unknown option 'x'"}
    ]
    agent.report(
        digest=state(installed, b)["appliedDigest"],
        running=["execve"],
        failures=broken,
        not_streaming="no server",
    )
    until(
        lambda: state(installed, b).get("notStreaming") == "no server", "the next report is there"
    )
    until(lambda: events(control_plane, installed, b) == ["ProbeFailed"], "one Event")


def test_a_refused_configuration_is_told(
    installed: Installed, node: MakeNode, follow: Follow, control_plane: ControlPlane
) -> None:
    """An agent that takes nothing of it is failed with its reason."""
    a = node("a")
    started(installed)
    follow(a).obey(running=[], rejected="filters.all: expected a table")
    until(lambda: state(installed, a).get("state") == "Failed", "failed")
    assert installed.condition("nodeprobes", a, "Ready")["message"].endswith(
        "filters.all: expected a table"
    )
    until(lambda: events(control_plane, installed, a) == ["ConfigurationRejected"], "one Event")


def test_the_newest_stream_of_a_node_wins(
    installed: Installed, node: MakeNode, follow: Follow
) -> None:
    """A second stream ends the first, which says so; the first one's end does not make the node disconnected."""
    a = node("a")
    started(installed)
    old = follow(a)
    old.obey()
    new = follow(a, pod="pod-2")
    new.obey()
    with pytest.raises(grpc.RpcError, match="a newer stream of this node has begun"):
        old.next()
    old.close()
    until(lambda: state(installed, a).get("pod") == "pod-2", "the newer pod's report")
    assert state(installed, a)["connected"] is True


def test_what_is_malformed_or_too_large_is_refused(
    installed: Installed, node: MakeNode, follow: Follow
) -> None:
    """The stream ends with INVALID_ARGUMENT and the reason; the operator and other streams go on."""
    a, b = node("a"), node("b")
    started(installed)
    good = follow(b)
    good.obey()
    cases = {
        r"node 'Not A Node': not the name": control_pb2.Report(node="Not A Node"),
        r"2000 of running: at most 1024": control_pb2.Report(
            node=a, running=[f"p{n}" for n in range(2000)]
        ),
        r"a report of \d+ bytes: at most": control_pb2.Report(
            node=a, not_streaming="x" * MAX_BYTES
        ),
        r"digest of 65 characters": control_pb2.Report(node=a, digest="x" * 65),
        r"running: '.*' is not a probe's or package's name": control_pb2.Report(
            node=a, running=["a\nb"]
        ),
        r"this stream began as": control_pb2.Report(node=b),
    }
    for reason, report in cases.items():
        agent = follow(a)
        agent.next()
        agent.send(report)
        with pytest.raises(grpc.RpcError, match=reason) as rejected:
            agent.next()
        assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        agent.close()
    installed.policy("more", "chmod")
    assert "chmod" in json.loads(good.next().settings)["probes"]


def test_a_pod_asks_before_its_agent_starts(installed: Installed, node: MakeNode) -> None:
    """The packages come with the configuration; a node that nobody knows is asked to try again."""
    a = node("a")
    started(installed)
    hashed = f"sha256:{'0' * 64}"
    installed.policy(
        "packages", packages=[{"name": "probe-x", "version": "1.0", "hashes": [hashed]}]
    )
    until(lambda: bool(configuration_of(installed.address, a).packages), "the packages are there")
    package = configuration_of(installed.address, a).packages[0]
    assert (package.name, package.version, list(package.hashes)) == ("probe-x", "1.0", [hashed])
    with pytest.raises(grpc.RpcError, match="does not know node nowhere") as unknown:
        configuration_of(installed.address, "nowhere")
    assert unknown.value.code() is grpc.StatusCode.UNAVAILABLE


def test_new_packages_replace_pods_a_few_at_a_time(
    installed: Installed, node: MakeNode, follow: Follow, control_plane: ControlPlane
) -> None:
    """One pod after the other, each when the one before has come again; a package that fails restarts nothing for ever."""
    nodes = [node(name) for name in "abc"]
    started(installed)
    installed.install(agent={"maxUnavailable": 1})

    def pods() -> dict[str, str]:
        found = control_plane.objects("pods", installed.namespace)
        return {
            pod["spec"]["nodeName"]: pod["metadata"]["name"]
            for pod in found
            if pod["status"].get("phase") == "Running"
        }

    until(lambda: set(pods()) == set(nodes), "every node has a pod")
    before = pods()

    def replaced() -> int:
        return sum(pods().get(name, before[name]) != before[name] for name in nodes)

    agents = {name: follow(name, pod=before[name]) for name in nodes}
    for agent in agents.values():
        agent.obey()
    until(
        lambda: installed.condition("infrasight", "infrasight", "Ready").get("status") == "True",
        "all run",
    )
    installed.policy("packages", packages=[{"name": "probe-x", "version": "1.0"}])
    failing = nodes[2]
    for round_ in range(3):

        def one_more(so_far: int = round_) -> bool:
            return replaced() == so_far + 1

        until(one_more, f"pod {round_ + 1} is new")
        (name,) = [
            n for n in nodes if pods().get(n, before[n]) != before[n] and agents[n].pod == before[n]
        ]
        agents[name].close()
        configuration_of(installed.address, name)
        agents[name] = follow(name, pod=pods()[name])
        if name == failing:
            agents[name].obey(
                running=["execve", "open"], failures=[("probe-x", "no matching distribution", True)]
            )
        else:
            agents[name].obey(running=["execve", "open"], packages=[("probe-x", "1.0")])
    after = pods()
    until(lambda: state(installed, failing).get("state") == "Failed", "the failure is told")
    until(
        lambda: (
            sorted(events(control_plane, installed, failing)) == ["PackageFailed", "PodRestarted"]
        ),
        "two Events",
    )
    status = installed.get("probepolicy", "packages")["status"]
    assert status["problems"] == [
        {"node": failing, "package": "probe-x", "reason": "no matching distribution"}
    ]
    installed.policy("base", "execve")  # a pass is made, and nothing is restarted
    for agent in agents.values():
        assert json.loads(agent.obey().settings)["probes"] == ["execve"]
    assert pods() == after
