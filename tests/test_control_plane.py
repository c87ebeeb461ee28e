"""The testbed's control plane is a real one: nodes, controllers, scheduler, and rights that are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.system import until

DAEMON_SET: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "sample"},
    "spec": {
        "selector": {"matchLabels": {"app": "sample"}},
        "template": {
            "metadata": {"labels": {"app": "sample"}},
            "spec": {
                "nodeSelector": {"pool": "sample"},
                "containers": [{"name": "sample", "image": "example.invalid/sample"}],
            },
        },
    },
}


def test_a_daemon_sets_pods_run_on_the_nodes_it_selects(
    control_plane: ControlPlane, namespace: str, add_node: Callable[..., str]
) -> None:
    """Of three nodes the two with the label get a running pod; a third gets one when it is given the label."""
    chosen = {add_node(name, pool="sample") for name in ("first", "second")}
    late = add_node("late")
    control_plane.apply(DAEMON_SET, namespace=namespace)

    def running() -> set[str]:
        pods = control_plane.objects("pods", namespace)
        return {pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running"}

    until(lambda: running() == chosen, "pods on the two nodes")
    control_plane.kubectl("label", "node", late, "pool=sample")
    until(lambda: running() == {*chosen, late}, "a pod on the third")


def test_a_token_may_do_what_its_role_says(control_plane: ControlPlane, namespace: str) -> None:
    """With a service account's token the API server answers 403, until a role allows that one thing."""
    control_plane.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    reader = control_plane.account_kubeconfig("reader", namespace)
    with pytest.raises(ToolError, match=r"\(Forbidden\).*cannot list resource \"configmaps\""):
        control_plane.kubectl("get", "configmaps", config=reader)
    control_plane.kubectl(
        "create", "role", "reader", "--verb=list", "--resource=configmaps", "-n", namespace
    )
    control_plane.kubectl(
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        f"--serviceaccount={namespace}:reader",
        "-n",
        namespace,
    )
    assert "kube-root-ca.crt" in control_plane.kubectl("get", "configmaps", config=reader)
    with pytest.raises(ToolError, match="Forbidden"):
        control_plane.kubectl("get", "secrets", config=reader)


def test_the_api_server_may_die_and_come_back(control_plane: ControlPlane, namespace: str) -> None:
    """Killed, it answers nobody; started again it has all objects, and the controllers go on."""
    control_plane.kubectl("create", "configmap", "kept", "-n", namespace)
    control_plane.kill_api_server()
    with pytest.raises(ToolError, match="refused"):
        control_plane.get("configmap", "kept", namespace)
    control_plane.start_api_server()
    assert control_plane.get("configmap", "kept", namespace)
    control_plane.kubectl(
        "create", "deployment", "later", "--image=example.invalid/later", "-n", namespace
    )
    until(lambda: len(control_plane.objects("replicasets", namespace)) == 1, "controllers work")
