"""The chart's rights on a real API server: the operator's account has exactly what it needs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_testbed.chart import find_manifest, literal_environment, render, write_secret_files
from infrasight_testbed.chart_release import Release
from infrasight_testbed.chart_values import NO_VOLUMES
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.operator_process import documented_rules
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import BIN, Process, until


@pytest.fixture
def release(
    control_plane: ControlPlane, namespace: str, add_node: Callable[..., str], tmp_path: Path
) -> Iterator[Release]:
    """The installed chart, in a cluster with one node."""
    add_node("first")
    installed = Release(control_plane, namespace, tmp_path)
    installed.install(NO_VOLUMES)
    yield installed
    installed.run("uninstall")


def test_roles_equal_the_documented_ones(cluster_tools: Path) -> None:
    """The chart grants the operator exactly the rights that its README lists."""
    manifests = render(cluster_tools)
    role, cluster_role = documented_rules()
    assert find_manifest(manifests, "Role", "infrasight-operator")["rules"] == role
    assert (
        find_manifest(manifests, "ClusterRole", "watch:infrasight-operator")["rules"]
        == cluster_role
    )


def test_operator_works_with_its_rights(
    control_plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    """The real operator creates its objects, and the API server rejects no call.

    It runs with the variables, the token and the certificates of its Deployment.
    """
    namespace = release.namespace
    pod = control_plane.get("deploy", "infrasight-operator", namespace)["spec"]["template"]["spec"]
    assert {volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume} == {
        0o440
    }
    container = pod["containers"][0]
    secret = control_plane.get("secret", "infrasight-operator-tls", namespace)
    tls = write_secret_files(secret, tmp_path / "tls")
    status = f"127.0.0.1:{free_port()}"
    variables = {
        name: value.replace("/etc/infrasight/tls", str(tls))
        for name, value in literal_environment(container).items()
    }
    variables["INFRASIGHT_OPERATOR_LISTEN"] = f"127.0.0.1:{free_port()}"
    variables["INFRASIGHT_OPERATOR_STATUS_LISTEN"] = status
    kubeconfig = control_plane.account_kubeconfig("infrasight-operator", namespace)
    variables["KUBECONFIG"] = str(kubeconfig)
    command: list[str | Path] = [BIN / "infrasight-operator", *container["args"]]
    operator = Process(command, tmp_path / "operator.log", status, variables)
    try:
        until(operator.ready, "the operator is ready")
        until(
            lambda: bool(control_plane.objects("nodeprobes", namespace)),
            f"a node has a configuration\n{operator.log()}",
        )
        node = control_plane.objects("nodeprobes", namespace)[0]
        assert {probe["name"] for probe in node["spec"]["probes"]} == {
            "execve",
            "open",
            "connect",
            "accept",
            "chmod",
        }
        labels = "app.kubernetes.io/name=infrasight-agent,app.kubernetes.io/component=agent"

        def agent_pods() -> list[dict[str, Any]]:
            return control_plane.objects("pods", namespace, "-l", labels)

        until(
            lambda: any(pod["status"].get("phase") == "Running" for pod in agent_pods()),
            f"an agent's pod runs\n{operator.log()}",
        )
        until(
            lambda: "status" in control_plane.get("isight", "infrasight", namespace),
            "the installation has a status",
        )
    finally:
        assert operator.stop() == 0
    assert "orbidden" not in operator.log()
    agent = agent_pods()[0]["spec"]
    assert agent["automountServiceAccountToken"] is False
    tls_secret = {"secretName": "infrasight-agent-tls", "defaultMode": 0o400}
    assert {"name": "tls", "secret": tls_secret} in agent["volumes"]


@pytest.fixture(scope="module")
def shared_release(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """The installed chart for all tests of this module, without waiting for pods."""
    installed = Release(control_plane, "chart-rights", tmp_path_factory.mktemp("chart"))
    control_plane.kubectl("create", "namespace", installed.namespace)
    installed.install(NO_VOLUMES, "--wait=false")
    yield installed
    installed.run("uninstall")
    control_plane.kubectl("delete", "namespace", installed.namespace, "--wait=false")


@pytest.mark.parametrize(
    "forbidden",
    [
        ("get", "secrets"),
        ("get", "configmaps"),
        ("get", "pods", "--all-namespaces"),
        ("get", "probepolicies", "--namespace", "default"),
        ("delete", "probepolicy", "default"),
        ("delete", "node", "first"),
        ("create", "deployment", "more", "--image=example.invalid/more"),
        ("create", "token", "infrasight-operator"),
        ("label", "isight", "infrasight", "a=b"),
    ],
    ids=" ".join,
)
def test_operator_has_no_other_rights(
    control_plane: ControlPlane, shared_release: Release, forbidden: tuple[str, ...]
) -> None:
    """With the operator's token, the API server forbids every other call."""
    account = control_plane.account_kubeconfig("infrasight-operator", shared_release.namespace)
    with pytest.raises(ToolError, match=r"[Ff]orbidden"):
        control_plane.kubectl(*forbidden, config=account)


def test_server_account_has_no_rights(control_plane: ControlPlane, release: Release) -> None:
    """The account of the servers and ClickHouse has no rights, even with a token."""
    account = control_plane.account_kubeconfig("infrasight-server", release.namespace)
    for kind in ("pods", "secrets", "infrasights", "nodes"):
        with pytest.raises(ToolError, match=r"\(Forbidden\)"):
            control_plane.kubectl("get", kind, config=account)
