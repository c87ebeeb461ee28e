"""The operator in a real cluster, with exactly the rights that its README documents."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from infrasight_operator.reconciler import MAX_PASS_INTERVAL_SECONDS
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.operator_process import OperatorInstallation, until_idle
from infrasight_testbed.system import until

AddNode = Callable[..., str]


def test_policies_become_node_probes(installation: OperatorInstallation, node: AddNode) -> None:
    """Each node's configuration is the union of the policies that select it, possibly empty."""
    a = node("a", zone="a")
    b = node("b", zone="b")
    c = node("c", zone="c", gpu="yes")
    installation.start()
    installation.install()
    installation.until_probes(**{a: [], b: [], c: []})
    in_a_or_b = {"key": "zone", "operator": "In", "values": ["a", "b"]}
    installation.policy("ab", "execve", nodeSelector={"matchExpressions": [in_a_or_b]})
    installation.policy(
        "gpu",
        {"name": "open", "options": {"x": 1}},
        "connect",
        nodeSelector={"matchLabels": {"gpu": "yes"}},
    )
    installation.until_probes(**{a: ["execve"], b: ["execve"], c: ["connect", "open"]})
    installation.policy("all", "chmod", "open")
    installation.until_probes(
        **{
            a: ["chmod", "execve", "open"],
            b: ["chmod", "execve", "open"],
            c: ["chmod", "connect", "open"],
        }
    )
    spec = installation.node_probes()[c]["spec"]
    assert sorted(spec["policies"]) == ["all", "gpu"]
    until(
        lambda: installation.get("probepolicy", "all")["status"]["nodes"]["selected"] == 3,
        "the policy's status counts three nodes",
    )
    assert installation.condition("probepolicy", "gpu", "Ready")["reason"] == "Pending"


def test_node_changes_are_followed(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """The operator follows nodes that are relabelled, added, removed or leave the installation."""
    a = node("a", zone="a")
    b = node("b", zone="b")
    installation.install()
    installation.policy("a", "execve", nodeSelector={"matchLabels": {"zone": "a"}})
    installation.start()
    installation.until_probes(**{a: ["execve"], b: []})
    control_plane.kubectl("label", "node", b, "zone=a", "--overwrite")
    installation.until_probes(**{a: ["execve"], b: ["execve"]})
    c = node("c", zone="a")
    installation.until_probes(**{a: ["execve"], b: ["execve"], c: ["execve"]})
    control_plane.remove_node(a)
    control_plane.kubectl("label", "node", b, "pool-")
    installation.until_probes(**{c: ["execve"]})
    control_plane.kubectl("label", "node", c, "zone=elsewhere", "--overwrite")
    installation.until_probes(**{c: []})


def test_deleted_policy_gives_way_to_weaker_one(
    installation: OperatorInstallation, node: AddNode
) -> None:
    """After a policy is deleted its probes stop, unless a weaker policy defines them too."""
    a = node("a")
    installation.install()
    installation.policy("first", "execve", "open", priority=1)
    installation.policy("second", {"name": "open", "options": {"x": 2}})
    installation.start()
    installation.until_probes(**{a: ["execve", "open"]})
    installation.delete("probepolicy", "first")
    installation.until_probes(**{a: ["open"]})
    assert installation.node_probes()[a]["spec"]["probes"] == [
        {"name": "open", "options": {"x": 2}, "policy": "second"}
    ]


def test_conflict_is_reported_and_priority_resolves_it(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """The younger policy, an Event and the installation report it; a priority resolves it."""
    a = node("a")
    installation.start()
    installation.install()
    installation.policy("older", {"name": "execve", "options": {"x": 1}})
    # Creation times have a resolution of one second.
    created = installation.get("probepolicy", "older")["metadata"]["creationTimestamp"]
    next_second = datetime.fromisoformat(created) + timedelta(seconds=1)
    until(lambda: datetime.now(UTC) >= next_second, "the next second has begun")
    installation.policy("younger", {"name": "execve", "options": {"x": 2}})
    installation.until_condition("probepolicy", "younger", "Conflict", True)

    def spec() -> dict[str, Any]:
        node_spec: dict[str, Any] = installation.node_probes()[a]["spec"]
        return node_spec

    assert spec()["probes"][0]["options"] == {"x": 1}
    assert spec()["conflicts"][0]["policies"] == ["older", "younger"]
    assert installation.condition("probepolicy", "older", "Conflict")["status"] == "False"
    installation.until_condition("infrasight", "infrasight", "Conflict", True)

    def event_reasons() -> list[str]:
        events = control_plane.objects("events", installation.namespace)
        return [e["reason"] for e in events if e["involvedObject"]["name"] == "younger"]

    until(lambda: event_reasons() == ["PolicyConflict"], "one Event")
    installation.policy("younger", {"name": "execve", "options": {"x": 2}}, priority=1)
    installation.until_condition("probepolicy", "younger", "Conflict", False)
    until(
        lambda: spec()["probes"][0]["options"] == {"x": 2},
        "the policy with the higher priority defines the probe",
    )


def test_manual_changes_are_reverted(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """A NodeProbes or DaemonSet that somebody edits or deletes is restored."""
    a = node("a")
    installation.install()
    installation.policy("p", "execve")
    installation.start()
    installation.until_probes(**{a: ["execve"]})
    patch = '{"spec":{"probes":[],"digest":"x"}}'
    control_plane.kubectl(
        "patch", "nodeprobes", a, "-n", installation.namespace, "--type=merge", "-p", patch
    )
    installation.until_probes(**{a: ["execve"]})
    installation.delete("nodeprobes", a)
    installation.until_probes(**{a: ["execve"]})

    def image() -> str:
        daemon_sets = control_plane.objects("daemonset", installation.namespace)
        if not daemon_sets:
            return ""
        return str(daemon_sets[0]["spec"]["template"]["spec"]["containers"][0]["image"])

    control_plane.kubectl(
        "set", "image", "daemonset/infrasight-agent", "agent=evil", "-n", installation.namespace
    )
    until(lambda: image() == "example.invalid/agent", "the image is restored")
    installation.delete("daemonset", "infrasight-agent")
    until(lambda: image() == "example.invalid/agent", "the DaemonSet is restored")


def test_daemon_set_follows_the_installation(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """The DaemonSet follows the installation; only policies outlive the installation."""
    a = node("a")
    installation.start()
    installation.install()
    installation.policy("p", "execve")
    installation.until_probes(**{a: ["execve"]})
    installation.install(
        agent={"image": "example.invalid/agent:2", "priorityClassName": "system-node-critical"}
    )

    def pod_spec() -> dict[str, Any]:
        daemon_set = installation.get("daemonset", "infrasight-agent")
        spec: dict[str, Any] = daemon_set["spec"]["template"]["spec"]
        return spec

    until(lambda: pod_spec()["containers"][0]["image"].endswith(":2"), "the new image")
    assert pod_spec()["priorityClassName"] == "system-node-critical"
    installation.install()
    until(lambda: "priorityClassName" not in pod_spec(), "the priority class is removed")

    def owned_objects() -> int:
        return sum(
            len(control_plane.objects(kind, installation.namespace))
            for kind in ("nodeprobes", "daemonset", "pods")
        )

    assert owned_objects() >= 2
    installation.delete("infrasight", "infrasight")
    until(lambda: owned_objects() == 0, "DaemonSet, pods and NodeProbes are deleted")
    until(
        lambda: (
            installation.condition("probepolicy", "p", "Ready").get("reason") == "NoInstallation"
        ),
        "the policy reports that there is no installation",
    )
    installation.install()
    installation.until_probes(**{a: ["execve"]})


def test_rejected_daemon_set_is_reported(installation: OperatorInstallation, node: AddNode) -> None:
    """An invalid affinity stops only the DaemonSet, and the installation reports the rejection."""
    a = node("a")
    installation.start()
    invalid: dict[str, Any] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}
    }
    installation.install(agent={"image": "x", "affinity": invalid})
    installation.policy("p", "execve")
    installation.until_probes(**{a: ["execve"]})
    installation.until_condition("infrasight", "infrasight", "Applied", False)
    applied = installation.condition("infrasight", "infrasight", "Applied")
    assert applied["reason"] == "Rejected"
    assert "DaemonSet" in applied["message"]
    assert "nodeSelectorTerms" in applied["message"]
    installation.install()
    installation.until_condition("infrasight", "infrasight", "Applied", True)


def test_foreign_objects_are_left_unchanged(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """Policies, the installation and nodes get no finalizers and no annotations."""
    a = node("a")
    installation.start()
    installation.install()
    installation.policy("p", "execve")
    until(lambda: installation.condition("probepolicy", "p", "Ready") != {}, "the status exists")

    def raw_object(*arguments: str) -> str:
        return control_plane.kubectl("get", *arguments, "-o", "json", "--show-managed-fields")

    for kind, name in (("infrasight", "infrasight"), ("probepolicy", "p")):
        text = raw_object(kind, name, "-n", installation.namespace)
        assert "finalizers" not in text
        assert "kopf" not in text
    assert "infrasight" not in raw_object("node", a)


def test_node_heartbeats_cause_no_calls(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """Heartbeats of a node cause no pass; a label that no policy uses causes one without calls."""
    a = node("a")
    operator = installation.start()
    installation.install()
    installation.policy("p", "execve")
    installation.until_condition("infrasight", "infrasight", "Ready", False)
    until_idle(operator)
    began = time.monotonic()
    calls = operator.metric("infrasight_operator_api_calls_total")
    passes = operator.metric("infrasight_operator_reconciles_total")
    for number in range(20):
        status = f'{{"status":{{"conditions":[{{"type":"Beat{number}","status":"True"}}]}}}}'
        control_plane.kubectl(
            "patch", "node", a, "--subresource=status", "--type=strategic", "-p", status
        )
    # The watch delivers the label after the heartbeats.
    control_plane.kubectl("label", "node", a, "unused=label")
    until(
        lambda: operator.metric("infrasight_operator_reconciles_total") > passes,
        "the label has caused a pass",
    )
    until_idle(operator)
    by_time = (time.monotonic() - began) // MAX_PASS_INTERVAL_SECONDS
    assert operator.metric("infrasight_operator_reconciles_total") <= passes + 1 + by_time
    assert operator.metric("infrasight_operator_api_calls_total") == calls
