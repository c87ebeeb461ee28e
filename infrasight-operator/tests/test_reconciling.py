"""The operator in a real cluster, with exactly the rights that its README names."""

import time
from collections.abc import Callable
from typing import Any

from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.operator_process import Installed
from infrasight_testbed.system import until

MakeNode = Callable[..., str]


def test_policies_become_nodes_probes(installed: Installed, node: MakeNode) -> None:
    """Three nodes with different labels: each is to run the union of the policies that select it; one has none."""
    a, b, c = node("a", zone="a"), node("b", zone="b"), node("c", zone="c", gpu="yes")
    installed.start()
    installed.install()
    installed.until_probes(**{a: [], b: [], c: []})
    installed.policy(
        "ab",
        "execve",
        nodeSelector={
            "matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]
        },
    )
    installed.policy(
        "gpu",
        {"name": "open", "options": {"x": 1}},
        "connect",
        nodeSelector={"matchLabels": {"gpu": "yes"}},
    )
    installed.until_probes(**{a: ["execve"], b: ["execve"], c: ["connect", "open"]})
    installed.policy("all", "chmod", "open")
    installed.until_probes(
        **{
            a: ["chmod", "execve", "open"],
            b: ["chmod", "execve", "open"],
            c: ["chmod", "connect", "open"],
        }
    )
    spec = installed.nodes()[c]["spec"]
    assert sorted(spec["policies"]) == ["all", "gpu"]
    until(
        lambda: installed.get("probepolicy", "all")["status"]["nodes"]["selected"] == 3,
        "the policy's status",
    )
    assert installed.condition("probepolicy", "gpu", "Ready")["reason"] == "Pending"


def test_nodes_change_come_and_go(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """A node that is relabelled, made, removed, or taken out of the installation is followed."""
    a, b = node("a", zone="a"), node("b", zone="b")
    installed.install()
    installed.policy("a", "execve", nodeSelector={"matchLabels": {"zone": "a"}})
    installed.start()
    installed.until_probes(**{a: ["execve"], b: []})
    control_plane.kubectl("label", "node", b, "zone=a", "--overwrite")
    installed.until_probes(**{a: ["execve"], b: ["execve"]})
    c = node("c", zone="a")
    installed.until_probes(**{a: ["execve"], b: ["execve"], c: ["execve"]})
    control_plane.remove_node(a)
    control_plane.kubectl("label", "node", b, "pool-")
    installed.until_probes(**{c: ["execve"]})
    control_plane.kubectl("label", "node", c, "zone=elsewhere", "--overwrite")
    installed.until_probes(**{c: []})


def test_a_policy_goes(installed: Installed, node: MakeNode) -> None:
    """What a deleted policy wanted is wanted no more, and another's takes its place."""
    a = node("a")
    installed.install()
    installed.policy("first", "execve", "open", priority=1)
    installed.policy("second", {"name": "open", "options": {"x": 2}})
    installed.start()
    installed.until_probes(**{a: ["execve", "open"]})
    installed.delete("probepolicy", "first")
    installed.until_probes(**{a: ["open"]})
    assert installed.nodes()[a]["spec"]["probes"] == [
        {"name": "open", "options": {"x": 2}, "policy": "second"}
    ]


def test_a_conflict_is_told_and_can_be_repaired(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """The younger policy says so in its status and in an Event, the installation too; a priority repairs it."""
    a = node("a")
    installed.start()
    installed.install()
    installed.policy("older", {"name": "execve", "options": {"x": 1}})
    time.sleep(1.1)  # the API server's times are whole seconds
    installed.policy("younger", {"name": "execve", "options": {"x": 2}})
    until(
        lambda: installed.condition("probepolicy", "younger", "Conflict").get("status") == "True",
        "the conflict is told",
    )
    assert installed.nodes()[a]["spec"]["probes"][0]["options"] == {"x": 1}
    assert installed.nodes()[a]["spec"]["conflicts"][0]["policies"] == ["older", "younger"]
    assert installed.condition("probepolicy", "older", "Conflict")["status"] == "False"
    until(
        lambda: installed.condition("infrasight", "infrasight", "Conflict")["status"] == "True",
        "the installation says so",
    )

    def events() -> list[str]:
        found = control_plane.objects("events", installed.namespace)
        return [e["reason"] for e in found if e["involvedObject"]["name"] == "younger"]

    until(lambda: events() == ["PolicyConflict"], "one Event")
    installed.policy("younger", {"name": "execve", "options": {"x": 2}}, priority=1)
    until(
        lambda: installed.condition("probepolicy", "younger", "Conflict")["status"] == "False",
        "the conflict is repaired",
    )
    until(
        lambda: installed.nodes()[a]["spec"]["probes"][0]["options"] == {"x": 2},
        "the stronger one holds",
    )


def test_what_others_change_is_put_back(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """A NodeProbes and the DaemonSet that somebody edits or deletes are as before soon after."""
    a = node("a")
    installed.install()
    installed.policy("p", "execve")
    installed.start()
    installed.until_probes(**{a: ["execve"]})
    control_plane.kubectl(
        "patch",
        "nodeprobes",
        a,
        "-n",
        installed.namespace,
        "--type=merge",
        "-p",
        '{"spec":{"probes":[],"digest":"x"}}',
    )
    installed.until_probes(**{a: ["execve"]})
    installed.delete("nodeprobes", a)
    installed.until_probes(**{a: ["execve"]})

    def image() -> str:
        found = control_plane.objects("daemonset", installed.namespace)
        return found[0]["spec"]["template"]["spec"]["containers"][0]["image"] if found else ""

    control_plane.kubectl(
        "set", "image", "daemonset/infrasight-agent", "agent=evil", "-n", installed.namespace
    )
    until(lambda: image() == "example.invalid/agent", "the image is put back")
    installed.delete("daemonset", "infrasight-agent")
    until(lambda: image() == "example.invalid/agent", "the DaemonSet is made again")


def test_an_installation_that_changes_and_goes(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """The DaemonSet follows the installation; when that is deleted, everything is collected, and policies stay."""
    a = node("a")
    installed.start()
    installed.install()
    installed.policy("p", "execve")
    installed.until_probes(**{a: ["execve"]})
    installed.install(
        agent={"image": "example.invalid/agent:2", "priorityClassName": "system-node-critical"}
    )

    def pod() -> dict[str, Any]:
        found: dict[str, Any] = installed.get("daemonset", "infrasight-agent")["spec"]["template"][
            "spec"
        ]
        return found

    until(lambda: pod()["containers"][0]["image"].endswith(":2"), "the new image")
    assert pod()["priorityClassName"] == "system-node-critical"
    installed.install()
    until(lambda: "priorityClassName" not in pod(), "what is said no more is gone")

    def left() -> int:
        return sum(
            len(control_plane.objects(kind, installed.namespace))
            for kind in ("nodeprobes", "daemonset", "pods")
        )

    assert left() >= 2
    installed.delete("infrasight", "infrasight")
    until(lambda: left() == 0, "DaemonSet, pods and NodeProbes are collected")
    until(
        lambda: installed.condition("probepolicy", "p", "Ready").get("reason") == "NoInstallation",
        "the policy says so",
    )
    installed.install()
    installed.until_probes(**{a: ["execve"]})


def test_what_the_api_server_refuses_is_said(installed: Installed, node: MakeNode) -> None:
    """An affinity that is no affinity stops the DaemonSet, not the rest; the installation says what was rejected."""
    a = node("a")
    installed.start()
    installed.install(
        agent={
            "image": "x",
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
        }
    )
    installed.policy("p", "execve")
    installed.until_probes(**{a: ["execve"]})
    until(
        lambda: installed.condition("infrasight", "infrasight", "Applied").get("status") == "False",
        "it is said",
    )
    message = installed.condition("infrasight", "infrasight", "Applied")["message"]
    assert "DaemonSet" in message
    assert "nodeSelectorTerms" in message
    installed.install()
    until(
        lambda: installed.condition("infrasight", "infrasight", "Applied")["status"] == "True",
        "it is repaired",
    )


def test_nothing_is_written_on_objects_of_others(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """Policies, the installation and nodes get neither finalizers nor annotations, and nobody's fields but their status."""
    a = node("a")
    installed.start()
    installed.install()
    installed.policy("p", "execve")
    until(lambda: installed.condition("probepolicy", "p", "Ready") != {}, "the status is there")
    for kind, name in (("infrasight", "infrasight"), ("probepolicy", "p")):
        found = control_plane.kubectl(
            "get", kind, name, "-n", installed.namespace, "-o", "json", "--show-managed-fields"
        )
        assert "finalizers" not in found
        assert "kopf" not in found
    assert "infrasight" not in control_plane.kubectl(
        "get", "node", a, "-o", "json", "--show-managed-fields"
    )


def test_heartbeats_cause_no_work(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """Nodes' statuses change, and the operator makes no call and no pass."""
    a = node("a")
    operator = installed.start()
    installed.install()
    installed.policy("p", "execve")
    until(lambda: installed.condition("infrasight", "infrasight", "Ready") != {}, "all is written")
    time.sleep(2)
    before = [
        operator.metric("infrasight_operator_api_calls_total"),
        operator.metric("infrasight_operator_reconciles_total"),
    ]
    for number in range(20):
        beat = f'{{"status":{{"conditions":[{{"type":"Beat{number}","status":"True"}}]}}}}'
        control_plane.kubectl(
            "patch", "node", a, "--subresource=status", "--type=strategic", "-p", beat
        )
    time.sleep(2)
    after = [
        operator.metric("infrasight_operator_api_calls_total"),
        operator.metric("infrasight_operator_reconciles_total"),
    ]
    assert after == before
