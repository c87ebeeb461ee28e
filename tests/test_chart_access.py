"""The chart's rights on a real API server: the operator's account may do what its work needs, and gets 403 for all else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from infrasight_testbed.chart import environment, named, render, secret_files
from infrasight_testbed.chart_release import Release
from infrasight_testbed.chart_values import NO_VOLUMES
from infrasight_testbed.clickhouse import free_port
from infrasight_testbed.control_plane import ControlPlane, ToolError
from infrasight_testbed.operator_process import documented_rules
from infrasight_testbed.system import BIN, Process, until


@pytest.fixture
def release(
    control_plane: ControlPlane, namespace: str, add_node: Callable[..., str], tmp_path: Path
) -> Iterator[Release]:
    """The installed chart, and a node."""
    add_node("first")
    made = Release(control_plane, namespace, tmp_path)
    made.install(NO_VOLUMES)
    yield made
    made.run("uninstall")


def test_the_role_is_the_documented_one(cluster_tools: Path) -> None:
    """The chart grants the operator what its README lists, no more and no less."""
    manifests = render(cluster_tools)
    role, cluster_role = documented_rules()
    assert named(manifests, "Role", "infrasight-operator")["rules"] == role
    assert named(manifests, "ClusterRole", "watch:infrasight-operator")["rules"] == cluster_role


def test_the_operator_works_with_its_rights(
    control_plane: ControlPlane, release: Release, tmp_path: Path
) -> None:
    """The real operator, started as the Deployment says with its account's token and certificates, makes the agents' DaemonSet,
    whose pods run, and a NodeProbes with the default policies' probes; the API server refuses it nothing."""
    namespace = release.namespace
    pod = control_plane.get("deploy", "infrasight-operator", namespace)["spec"]["template"]["spec"]
    assert {volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume} == {
        0o440
    }
    container = pod["containers"][0]
    secret_files(
        control_plane.get("secret", "infrasight-operator-tls", namespace), tls := tmp_path / "tls"
    )
    status = f"127.0.0.1:{free_port()}"
    told = {
        key: value.replace("/etc/infrasight/tls", str(tls))
        for key, value in environment(container).items()
    }
    told |= {
        "INFRASIGHT_OPERATOR_LISTEN": f"127.0.0.1:{free_port()}",
        "INFRASIGHT_OPERATOR_STATUS_LISTEN": status,
    }
    told["KUBECONFIG"] = str(control_plane.account("infrasight-operator", namespace))
    operator = Process(
        [BIN / "infrasight-operator", *container["args"]], tmp_path / "operator.log", status, told
    )
    try:
        until(operator.ready, "the operator is ready")
        until(
            lambda: bool(control_plane.objects("nodeprobes", namespace)),
            f"a node is told what to record\n{operator.log()}",
        )
        node = control_plane.objects("nodeprobes", namespace)[0]
        assert {probe["name"] for probe in node["spec"]["probes"]} == {
            "execve",
            "open",
            "connect",
            "accept",
            "chmod",
        }
        agents = (
            "pods",
            namespace,
            "-l",
            "app.kubernetes.io/name=infrasight-agent,app.kubernetes.io/component=agent",
        )
        until(
            lambda: (
                [pod["status"].get("phase") for pod in control_plane.objects(*agents)].count(
                    "Running"
                )
                > 0
            ),
            f"an agent's pod runs\n{operator.log()}",
        )
        until(
            lambda: "status" in control_plane.get("isight", "infrasight", namespace),
            "the installation has a status",
        )
    finally:
        assert operator.stop() == 0
    assert "orbidden" not in operator.log()
    agent = control_plane.objects(*agents)[0]["spec"]
    assert agent["automountServiceAccountToken"] is False
    assert {
        "name": "tls",
        "secret": {"secretName": "infrasight-agent-tls", "defaultMode": 0o400},
    } in agent["volumes"]


@pytest.fixture(scope="module")
def lasting_release(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """The chart's objects for all of these tests, without pods."""
    made = Release(control_plane, "chart-rights", tmp_path_factory.mktemp("chart"))
    control_plane.kubectl("create", "namespace", made.namespace)
    made.install(NO_VOLUMES, "--wait=false")
    yield made
    made.run("uninstall")
    control_plane.kubectl("delete", "namespace", made.namespace, "--wait=false")


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
def test_the_operator_may_do_nothing_else(
    control_plane: ControlPlane, lasting_release: Release, forbidden: tuple[str, ...]
) -> None:
    """With the operator's token the API server answers 403 to what is none of its work."""
    account = control_plane.account("infrasight-operator", lasting_release.namespace)
    with pytest.raises(ToolError, match=r"[Ff]orbidden"):
        control_plane.kubectl(*forbidden, config=account)


def test_the_server_has_no_rights(control_plane: ControlPlane, release: Release) -> None:
    """The servers' and ClickHouse's account may do nothing at all, even if somebody had its token."""
    account = control_plane.account("infrasight-server", release.namespace)
    for what in ("pods", "secrets", "infrasights", "nodes"):
        with pytest.raises(ToolError, match=r"\(Forbidden\)"):
            control_plane.kubectl("get", what, config=account)
