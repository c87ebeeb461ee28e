"""The test control plane works: nodes, controllers, scheduler and RBAC."""

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


def test_daemon_set_pods_run_on_selected_nodes(
    control_plane: ControlPlane, namespace: str, add_node: Callable[..., str]
) -> None:
    """Nodes with the label get a running pod; a third node gets one when it gets the label."""
    selected = {add_node(name, pool="sample") for name in ("first", "second")}
    late = add_node("late")
    control_plane.apply(DAEMON_SET, namespace=namespace)

    def running() -> set[str]:
        pods = control_plane.objects("pods", namespace)
        return {pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running"}

    until(lambda: running() == selected, "pods on the two nodes")
    control_plane.kubectl("label", "node", late, "pool=sample")
    until(lambda: running() == {*selected, late}, "a pod on the third")


def test_token_has_the_rights_of_its_role(control_plane: ControlPlane, namespace: str) -> None:
    """A service account's token is denied everything but what a role allows."""
    control_plane.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    reader = control_plane.account_kubeconfig("reader", namespace)
    with pytest.raises(ToolError, match=r"\(Forbidden\).*cannot list resource \"configmaps\""):
        control_plane.kubectl("get", "configmaps", config=reader)
    control_plane.kubectl(
        "create", "role", "reader", "--verb=list", "--resource=configmaps", "-n", namespace
    )
    account = f"--serviceaccount={namespace}:reader"
    control_plane.kubectl(
        "create", "rolebinding", "reader", "--role=reader", account, "-n", namespace
    )
    assert "kube-root-ca.crt" in control_plane.kubectl("get", "configmaps", config=reader)
    with pytest.raises(ToolError, match="Forbidden"):
        control_plane.kubectl("get", "secrets", config=reader)


def test_api_server_restart_preserves_objects(control_plane: ControlPlane, namespace: str) -> None:
    """After a kill and a restart the API server has all objects, and the controllers work."""
    control_plane.kubectl("create", "configmap", "saved", "-n", namespace)
    control_plane.kill_api_server()
    with pytest.raises(ToolError, match="refused"):
        control_plane.get("configmap", "saved", namespace)
    control_plane.start_api_server()
    assert control_plane.get("configmap", "saved", namespace)
    control_plane.kubectl(
        "create", "deployment", "later", "--image=example.invalid/later", "-n", namespace
    )
    until(lambda: len(control_plane.objects("replicasets", namespace)) == 1, "the controllers work")
