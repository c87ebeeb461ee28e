"""Policies that would blind nodes, written by a tenant who may write ProbePolicy objects."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from infrasight_core.settings.reserved_names import RESERVED_NAMES
from infrasight_testbed.chart import ChartError, template
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.fake_agent import FakeAgent
from infrasight_testbed.operator_process import API_VERSION, OperatorInstallation
from infrasight_testbed.system import until

AddNode = Callable[..., str]
BLIND = {"excludeUid": [0]}
SECONDS = 30


@pytest.fixture
def victim(installation: OperatorInstallation, add_node: AddNode, pool: str) -> str:
    """A node where another tenant's policy records executions, with a running operator."""
    name = add_node("victim", pool=pool)
    installation.install()
    installation.policy("victim", "execve", priority=10)
    installation.start()
    installation.until_probes(**{name: ["execve"]})
    return name


def until_policy(
    installation: OperatorInstallation, policy: str, condition: str, status: bool
) -> str:
    """Waits until a policy has a condition; returns its message."""

    def is_reported() -> bool:
        reported = installation.condition("probepolicy", policy, condition)
        return bool(reported.get("status") == str(status))

    until(is_reported, f"{policy} has {condition}={status}\n{installation.logs()}", SECONDS)
    return str(installation.condition("probepolicy", policy, condition)["message"])


def create(
    installation: OperatorInstallation, policy: str, probe: dict[str, Any], **replaced: str
) -> None:
    """Creates a policy whose size or depth `kubectl apply` does not accept.

    Args:
        installation: The installation.
        policy: The policy's name.
        probe: Its probe.
        replaced: JSON text by the text that stands for it in the probe.
    """
    body = {
        "apiVersion": API_VERSION,
        "kind": "ProbePolicy",
        "metadata": {"name": policy},
        "spec": {"probes": [probe]},
    }
    text = json.dumps(body)
    for name, value in replaced.items():
        text = text.replace(f'"{name}"', value)
    options = ("create", "-n", installation.namespace, "-f", "-", "--validate=false")
    installation.cluster.kubectl(*options, text=text)


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_policy_for_a_reserved_word_is_not_accepted(
    control_plane: ControlPlane, namespace: str, name: str
) -> None:
    """A tenant's policy filters a probe named like a word of the agent; the API server rejects it.

    The filters of `all` would be those of every probe.
    """
    spec = {"priority": -1000, "probes": [{"name": name, "filters": BLIND}]}
    body = {
        "apiVersion": API_VERSION,
        "kind": "ProbePolicy",
        "metadata": {"name": "evil"},
        "spec": spec,
    }
    with pytest.raises(ToolError, match="reserved word"):
        control_plane.apply(body, namespace=namespace)


def test_options_of_a_reserved_word_are_not_accepted(
    control_plane: ControlPlane, namespace: str
) -> None:
    """The installation's options name `all`, with which no agent would start."""
    spec = {
        "agent": {"image": "agent", "options": {"all": {"x": 1}}},
        "server": {"address": "server:7443", "plaintext": True},
    }
    body = {
        "apiVersion": API_VERSION,
        "kind": "InfraSight",
        "metadata": {"name": "infrasight"},
        "spec": spec,
    }
    with pytest.raises(ToolError, match="reserved word"):
        control_plane.apply(body, namespace=namespace)


def test_chart_values_with_a_reserved_word_are_not_accepted(cluster_tools: Path) -> None:
    """The values of the chart have a policy for `all`; Helm rejects them before it installs."""
    values = {"probePolicies": {"evil": {"probes": [{"name": "all", "filters": BLIND}]}}}
    with pytest.raises(ChartError, match="/probePolicies/evil/probes/0/name"):
        template(cluster_tools, values)


def test_package_without_hash_reaches_no_node(
    installation: OperatorInstallation, victim: str
) -> None:
    """A policy names a package without a hash; it is left out, and the policy's probe runs."""
    installation.policy("evil", "chmod", packages=[{"name": "demo-evil", "version": "1.0"}])
    message = until_policy(installation, "evil", "Accepted", False)
    assert "package demo-evil: it has no hashes" in message
    installation.until_probes(**{victim: ["chmod", "execve"]})
    assert "packages" not in installation.node_probes()[victim]["spec"]


def test_override_of_a_policy_is_reported_to_its_owner(
    installation: OperatorInstallation, victim: str
) -> None:
    """A policy of higher priority disables a probe; the policy that wanted it names the other."""
    installation.policy("evil", {"name": "execve", "enabled": False}, priority=11)
    installation.until_probes(**{victim: []})
    message = until_policy(installation, "victim", "Overridden", True)
    assert "execve: evil, which has a higher priority, disables it" in message


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"excludePath": ["/"]}, "excludePath names /"),
        ({"includePath": ["/etc/"], "excludePath": ["/e"]}, "excludePath covers every path"),
        ({"includeUid": [0], "excludeUid": [0, 1]}, "excludeUid names every value of includeUid"),
    ],
    ids=["every path", "included paths", "included users"],
)
def test_filters_that_exclude_everything_are_reported(
    installation: OperatorInstallation, victim: str, filters: dict[str, Any], reason: str
) -> None:
    """No event passes the filters of a probe; its policy reports that it records nothing."""
    installation.policy("evil", {"name": "open", "filters": filters})
    message = until_policy(installation, "evil", "RecordsNothing", True)
    assert f"probe open records nothing: {reason}" in message


def test_oversized_options_do_not_stop_other_policies(
    installation: OperatorInstallation, victim: str
) -> None:
    """Policies of a megabyte each would exceed what a node's configuration may hold."""
    for number in range(2):
        options = {"x": "y" * (1 << 20)}
        create(installation, f"evil-{number}", {"name": f"probe{number}", "options": options})
    assert "more than 65536" in until_policy(installation, "evil-0", "Accepted", False)
    installation.policy("victim", "execve", "chmod", priority=10)
    installation.until_probes(**{victim: ["chmod", "execve"]})


def test_many_probes_do_not_stop_other_policies(
    installation: OperatorInstallation, victim: str
) -> None:
    """Policies of 256 probes each would exceed what a NodeProbes object may list."""
    for number in range(5):
        probes = [f"probe{number}_{index}" for index in range(256)]
        installation.policy(f"evil-{number}", *probes)
    installation.policy("victim", "execve", "chmod", priority=10)

    def probes_of_victim() -> list[str]:
        return installation.probes()[victim]

    until(lambda: {"chmod", "execve"} <= set(probes_of_victim()), "the victim's probes", SECONDS)
    message = until_policy(installation, "evil-4", "Ready", False)
    assert "has no room for it" in message
    assert len(probes_of_victim()) == 256


def test_deeply_nested_options_do_not_stop_other_policies(
    installation: OperatorInstallation, victim: str
) -> None:
    """Options of thousands of levels exhaust the stack of code that recurses."""
    nested = '{"x":' * 9000 + "1" + "}" * 9000
    create(installation, "evil", {"name": "open", "options": "NESTED"}, NESTED=nested)
    installation.policy("victim", "execve", "chmod", priority=10)
    installation.until_probes(**{victim: ["chmod", "execve"]})


def test_changing_packages_do_not_keep_a_node_from_recording(
    installation: OperatorInstallation, add_node: AddNode, pool: str
) -> None:
    """A policy of the lowest priority names other packages again and again; each replaces the pod.

    The agent's pod is replaced once, and then stays for a while.
    """
    node = add_node("victim", pool=pool)
    installation.install()
    operator = installation.start()
    installation.until_probes(**{node: []})

    def pods() -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in installation.cluster.objects("pods", installation.namespace)
            if pod["status"].get("phase") == "Running"
        ]

    def change_packages(version: str) -> None:
        package = {"name": "demo", "version": version, "hashes": [f"sha256:{'0' * 64}"]}
        installation.policy("evil", packages=[package], priority=-1000)

        def is_configured() -> bool:
            packages = installation.node_probes()[node]["spec"].get("packages", [])
            return [package["version"] for package in packages] == [version]

        until(is_configured, f"the configuration has version {version}", SECONDS)

    def connect(**fields: Any) -> FakeAgent:
        agent = FakeAgent(installation.address, node, pod=pods()[0], **fields)
        agent.apply_next(**fields)
        return agent

    until(lambda: len(pods()) == 1, "the node has a pod", SECONDS)
    first = connect()
    before = pods()
    change_packages("1.0")
    until(lambda: len(pods()) == 1 and pods() != before, "the pod is replaced", SECONDS)
    first.close()
    second = connect(packages=[("demo", "1.0")])
    for number in range(2, 5):
        change_packages(f"{number}.0")
    assert operator.metric("infrasight_operator_pod_restarts_total") == 1
    second.close()
