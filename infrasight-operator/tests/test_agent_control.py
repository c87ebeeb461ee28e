"""ControlService end to end: real gRPC clients, a real operator, a real API server."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from infrasight.v1 import control_pb2
from infrasight_operator.model.agent_report import MAX_REPORT_BYTES
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.fake_agent import FakeAgent, get_configuration
from infrasight_testbed.operator_process import OperatorInstallation
from infrasight_testbed.system import Process, until

AddNode = Callable[..., str]
ConnectAgent = Callable[..., FakeAgent]


def node_status(installation: OperatorInstallation, node: str) -> dict[str, Any]:
    """The status of a node's NodeProbes; empty before the operator has made them."""
    status: dict[str, Any] = installation.node_probes().get(node, {}).get("status", {})
    return status


def event_reasons(
    control_plane: ControlPlane, installation: OperatorInstallation, name: str
) -> list[str]:
    """The reasons of the Events about an object."""
    events = control_plane.objects("events", installation.namespace)
    return [event["reason"] for event in events if event["involvedObject"]["name"] == name]


def start_with_policy(installation: OperatorInstallation) -> Process:
    """Starts an operator for an installation with a policy of two probes."""
    installation.install()
    installation.policy("base", "execve", {"name": "open", "filters": {"excludePath": ["/proc/"]}})
    return installation.start()


def test_policy_change_reaches_agent_and_report_reaches_statuses(
    installation: OperatorInstallation, node: AddNode, connect_agent: ConnectAgent
) -> None:
    """An agent receives each configuration; its reports appear in the status of every resource."""
    a = node("a")
    operator = start_with_policy(installation)
    agent = connect_agent(a)
    first = agent.apply_next(installed=["execve", "open"])
    assert json.loads(first.settings) == {
        "probes": ["execve", "open"],
        "options": {},
        "filters": {"open": {"exclude_path": ["/proc/"]}},
    }
    installation.until_condition("infrasight", "infrasight", "Ready", True)
    status = node_status(installation, a)
    assert (status["state"], status["connected"], status["pod"]) == ("Running", True, "pod")
    assert (status["running"], status["appliedDigest"]) == (["execve", "open"], first.digest)
    assert installation.get("probepolicy", "base")["status"]["nodes"] == {
        "selected": 1,
        "running": 1,
        "pending": 0,
        "failed": 0,
    }
    installation.policy("more", {"name": "chmod", "options": {"depth": 2}})
    second = agent.next_configuration()
    assert json.loads(second.settings)["options"] == {"chmod": {"depth": 2}}
    until(
        lambda: installation.condition("probepolicy", "more", "Ready").get("reason") == "Pending",
        "the policy waits for the agent's report",
    )
    agent.report(digest=second.digest, running=["chmod", "execve", "open"])
    installation.until_condition("probepolicy", "more", "Ready", True)
    assert operator.metric("infrasight_operator_connected_agents") == 1
    assert operator.metric('infrasight_operator_nodes{state="Running"}') == 1
    agent.close()
    until(
        lambda: node_status(installation, a)["state"] == "Disconnected",
        "the node is disconnected",
    )
    assert node_status(installation, a)["running"] == ["chmod", "execve", "open"]
    installation.until_condition("infrasight", "infrasight", "Ready", False)


def test_failed_probe_is_reported_with_one_event(
    installation: OperatorInstallation,
    node: AddNode,
    connect_agent: ConnectAgent,
    control_plane: ControlPlane,
) -> None:
    """Node and policy report the failed probe and its reason; one Event is posted."""
    a = node("a")
    b = node("b")
    start_with_policy(installation)
    connect_agent(a).apply_next()
    agent = connect_agent(b)
    failures = [("open", "open: unknown option 'x'", False)]
    agent.apply_next(running=["execve"], failures=failures)
    until(lambda: node_status(installation, b).get("state") == "Failed", "the node has failed")
    until(
        lambda: installation.get("probepolicy", "base")["status"]["nodes"]["failed"] == 1,
        "the policy counts a failed node",
    )
    status = installation.get("probepolicy", "base")["status"]
    assert status["nodes"] == {"selected": 2, "running": 1, "pending": 0, "failed": 1}
    assert status["problems"] == [
        {"node": b, "probe": "open", "reason": "open: unknown option 'x'"}
    ]
    agent.report(
        digest=node_status(installation, b)["appliedDigest"],
        running=["execve"],
        failures=failures,
        not_streaming="no server",
    )
    until(
        lambda: node_status(installation, b).get("notStreaming") == "no server",
        "the next report is in the status",
    )
    until(lambda: event_reasons(control_plane, installation, b) == ["ProbeFailed"], "one Event")


def test_rejected_configuration_is_reported(
    installation: OperatorInstallation,
    node: AddNode,
    connect_agent: ConnectAgent,
    control_plane: ControlPlane,
) -> None:
    """A node whose agent rejects the configuration has failed, with the agent's reason."""
    a = node("a")
    start_with_policy(installation)
    reason = "filters.all: expected a table"
    connect_agent(a).apply_next(running=[], rejected=reason)
    until(lambda: node_status(installation, a).get("state") == "Failed", "the node has failed")
    assert installation.condition("nodeprobes", a, "Ready")["message"].endswith(reason)
    until(
        lambda: event_reasons(control_plane, installation, a) == ["ConfigurationRejected"],
        "one Event",
    )


def test_newest_stream_of_a_node_replaces_the_older_one(
    installation: OperatorInstallation, node: AddNode, connect_agent: ConnectAgent
) -> None:
    """A second stream ends the first; the end of the first does not disconnect the node."""
    a = node("a")
    start_with_policy(installation)
    older = connect_agent(a)
    older.apply_next()
    newer = connect_agent(a, pod="pod-2")
    newer.apply_next()
    with pytest.raises(grpc.RpcError, match="a newer stream of this node has begun"):
        older.next_configuration()
    older.close()
    until(lambda: node_status(installation, a).get("pod") == "pod-2", "the newer pod's report")
    assert node_status(installation, a)["connected"] is True


def test_invalid_reports_are_rejected(
    installation: OperatorInstallation, node: AddNode, connect_agent: ConnectAgent
) -> None:
    """An invalid report ends its stream with INVALID_ARGUMENT; other streams continue."""
    a = node("a")
    b = node("b")
    start_with_policy(installation)
    other = connect_agent(b)
    other.apply_next()
    cases = {
        r"node 'Not A Node': not a valid node name": control_pb2.Report(node="Not A Node"),
        r"running: 2000 entries exceed the limit of 1024": control_pb2.Report(
            node=a, running=[f"p{number}" for number in range(2000)]
        ),
        r"a report of \d+ bytes exceeds the limit": control_pb2.Report(
            node=a, not_streaming="x" * MAX_REPORT_BYTES
        ),
        r"digest: 65 characters exceed the limit": control_pb2.Report(node=a, digest="x" * 65),
        r"running: '.*' is not a valid probe or package name": control_pb2.Report(
            node=a, running=["a\nb"]
        ),
        r"this stream belongs to": control_pb2.Report(node=b),
    }
    for reason, report in cases.items():
        agent = connect_agent(a)
        agent.next_configuration()
        agent.send(report)
        with pytest.raises(grpc.RpcError, match=reason) as rejected:
            agent.next_configuration()
        assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        agent.close()
    installation.policy("more", "chmod")
    assert "chmod" in json.loads(other.next_configuration().settings)["probes"]


def test_get_configuration_returns_packages(
    installation: OperatorInstallation, node: AddNode
) -> None:
    """The init container of a pod receives the packages; an unknown node is UNAVAILABLE."""
    a = node("a")
    start_with_policy(installation)
    file_hash = f"sha256:{'0' * 64}"
    entry = {"name": "probe-x", "version": "1.0", "hashes": [file_hash]}
    installation.policy("packages", packages=[entry])
    until(
        lambda: bool(get_configuration(installation.address, a).packages),
        "the configuration has the package",
    )
    package = get_configuration(installation.address, a).packages[0]
    assert (package.name, package.version, list(package.hashes)) == ("probe-x", "1.0", [file_hash])
    with pytest.raises(grpc.RpcError, match="does not know node nowhere") as unknown:
        get_configuration(installation.address, "nowhere")
    assert unknown.value.code() is grpc.StatusCode.UNAVAILABLE


def test_changed_packages_replace_pods_within_the_limit(
    installation: OperatorInstallation,
    node: AddNode,
    connect_agent: ConnectAgent,
    control_plane: ControlPlane,
) -> None:
    """Pods are replaced one by one; a package that fails restarts its pod only once."""
    nodes = [node(name) for name in "abc"]
    operator = start_with_policy(installation)
    installation.install(agent={"maxUnavailable": 1})

    def running_pods() -> dict[str, str]:
        return {
            pod["spec"]["nodeName"]: pod["metadata"]["name"]
            for pod in control_plane.objects("pods", installation.namespace)
            if pod["status"].get("phase") == "Running"
        }

    until(lambda: set(running_pods()) == set(nodes), "every node has a pod")
    before = running_pods()

    def replaced_nodes() -> list[str]:
        pods = running_pods()
        return [name for name in nodes if pods.get(name, before[name]) != before[name]]

    agents = {name: connect_agent(name, pod=before[name]) for name in nodes}
    for agent in agents.values():
        agent.apply_next()
    installation.until_condition("infrasight", "infrasight", "Ready", True)
    package = {"name": "probe-x", "version": "1.0", "hashes": [f"sha256:{'0' * 64}"]}
    installation.policy("packages", packages=[package])
    failing = nodes[2]
    reconnected: set[str] = set()
    for count in range(1, len(nodes) + 1):

        def is_next_replaced(count: int = count) -> bool:
            return len(replaced_nodes()) == count

        until(is_next_replaced, f"pod {count} is replaced")
        (name,) = set(replaced_nodes()) - reconnected
        reconnected.add(name)
        agents[name].close()
        get_configuration(installation.address, name)
        agents[name] = connect_agent(name, pod=running_pods()[name])
        if name == failing:
            failure = ("probe-x", "no matching distribution", True)
            agents[name].apply_next(running=["execve", "open"], failures=[failure])
        else:
            packages = [("probe-x", "1.0")]
            agents[name].apply_next(running=["execve", "open"], packages=packages)
    after = running_pods()
    until(
        lambda: node_status(installation, failing).get("state") == "Failed",
        "the node with the failed package has failed",
    )
    until(
        lambda: (
            sorted(event_reasons(control_plane, installation, failing))
            == ["PackageFailed", "PodRestarted"]
        ),
        "two Events",
    )
    status = installation.get("probepolicy", "packages")["status"]
    assert status["problems"] == [
        {"node": failing, "package": "probe-x", "reason": "no matching distribution"}
    ]
    # Another pass over all nodes restarts nothing.
    installation.policy("base", "execve")
    for agent in agents.values():
        assert json.loads(agent.apply_next().settings)["probes"] == ["execve"]
    installation.until_condition("probepolicy", "base", "Ready", True)
    assert operator.metric("infrasight_operator_pod_restarts_total") == len(nodes)
    assert running_pods() == after
