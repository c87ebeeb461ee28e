"""The operator recovers after it, its API server, its token or its certificates are replaced."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from infrasight_core.net.tls import TlsFiles
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.fake_agent import FakeAgent, get_configuration
from infrasight_testbed.operator_process import OperatorInstallation, until_idle
from infrasight_testbed.system import BIN, Process, until

AddNode = Callable[..., str]
ConnectAgent = Callable[..., FakeAgent]


def node_probes_calls(operator: Process, verb: str) -> float:
    """How many calls about NodeProbes an operator has made."""
    labels = f'{{kind="NodeProbes",result="ok",verb="{verb}"}}'
    return operator.metric(f"infrasight_operator_api_calls_total{labels}")


def until_state(installation: OperatorInstallation, node: str, state: str) -> None:
    """Waits until a node has a state."""
    until(
        lambda: installation.get("nodeprobes", node).get("status", {}).get("state") == state,
        f"node {node} is {state}",
    )


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6, 1.0])
def test_killed_operator_is_completed_by_the_next(
    installation: OperatorInstallation, node: AddNode, seconds: float
) -> None:
    """An operator killed while it applies policies leaves a state that the next one completes."""
    nodes = [node(name) for name in "abc"]
    installation.install()
    operator = installation.start(ready=False)
    for number in range(5):
        installation.policy(f"p{number}", f"probe_{number}")
    time.sleep(seconds)  # the moment of the kill, not a wait
    operator.kill()
    installation.delete("probepolicy", "p0")
    installation.policy("p1", "probe_1", "probe_x")
    installation.start()
    probes = ["probe_1", "probe_2", "probe_3", "probe_4", "probe_x"]
    installation.until_probes(**dict.fromkeys(nodes, probes))


def test_restarted_operator_writes_only_the_disconnection(
    installation: OperatorInstallation, node: AddNode, connect_agent: ConnectAgent
) -> None:
    """A second operator applies no NodeProbes, writes one status, and keeps the agent's report."""
    a = node("a")
    installation.install()
    installation.policy("p", "execve")
    first = installation.start()
    connect_agent(a).apply_next()
    until_state(installation, a, "Running")
    until_idle(first)
    assert node_probes_calls(first, "apply") == 1
    assert first.stop() == 0
    generation = installation.get("nodeprobes", a)["metadata"]["generation"]
    second = installation.start()
    until_state(installation, a, "Disconnected")
    until_idle(second)
    assert node_probes_calls(second, "list") >= 1
    assert node_probes_calls(second, "apply_status") == 1
    assert node_probes_calls(second, "apply") == 0
    after = installation.get("nodeprobes", a)
    assert after["metadata"]["generation"] == generation
    assert after["status"]["running"] == ["execve"]


def test_two_operators_do_not_overwrite_each_other(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """Two operators write the same objects: after they agree, further passes cause no calls."""
    a = node("a")
    installation.install()
    operators = [installation.start(), installation.start_another()]
    for number in range(10):
        installation.policy("p", f"probe_{number}")
    installation.until_probes(**{a: ["probe_9"]})
    until_idle(*operators)

    def metrics(name: str) -> list[float]:
        return [operator.metric(name) for operator in operators]

    calls = metrics("infrasight_operator_api_calls_total")
    passes = metrics("infrasight_operator_reconciles_total")
    control_plane.kubectl("label", "node", a, "unused=label")
    until(
        lambda: all(
            now > before
            for now, before in zip(
                metrics("infrasight_operator_reconciles_total"), passes, strict=True
            )
        ),
        "both operators have made another pass",
    )
    until_idle(*operators)
    assert metrics("infrasight_operator_api_calls_total") == calls


def test_operator_outlives_an_api_server_outage(
    installation: OperatorInstallation,
    node: AddNode,
    connect_agent: ConnectAgent,
    control_plane: ControlPlane,
) -> None:
    """During the outage agents still get configurations; afterwards the operator catches up."""
    a = node("a")
    installation.install()
    installation.policy("p", "execve")
    operator = installation.start()
    agent = connect_agent(a)
    agent.apply_next()
    until_state(installation, a, "Running")
    control_plane.kill_api_server()
    try:
        # The report must be written to the status, which fails.
        agent.report(digest="", running=[])
        until(lambda: "could not be written; retrying" in operator.log(), "a write has failed")
        assert get_configuration(installation.address, a).digest
        assert operator.ready()
    finally:
        control_plane.start_api_server()
    installation.policy("p", "execve", "chmod")
    configuration = agent.next_configuration()
    agent.report(digest=configuration.digest, running=["chmod", "execve"])
    installation.until_probes(**{a: ["chmod", "execve"]})
    until_state(installation, a, "Running")


def test_deletion_during_a_broken_watch_is_detected(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """A policy that is deleted while the watch is interrupted has no effect afterwards."""
    a = node("a")
    installation.install()
    installation.policy("deleted", "open")
    installation.policy("remaining", "execve")
    installation.start()
    installation.until_probes(**{a: ["execve", "open"]})
    control_plane.kill_api_server()
    control_plane.start_api_server()
    installation.delete("probepolicy", "deleted")
    installation.until_probes(**{a: ["execve"]})


def test_replaced_token_is_read_again(
    installation: OperatorInstallation, node: AddNode, control_plane: ControlPlane
) -> None:
    """After its token becomes invalid, the operator lists, watches and writes with the new one."""
    a = node("a")
    installation.install()
    token = installation.use_token_file()
    operator = installation.start()
    installation.policy("p", "execve")
    installation.until_probes(**{a: ["execve"]})
    control_plane.kubectl("delete", "serviceaccount", "operator", "-n", installation.namespace)
    control_plane.kubectl("create", "serviceaccount", "operator", "-n", installation.namespace)
    new_token = control_plane.kubectl("create", "token", "operator", "-n", installation.namespace)
    token.write_text(new_token)
    # This ends the watches and clears the API server's cache of authenticated tokens.
    control_plane.kill_api_server()
    control_plane.start_api_server()
    installation.policy("p", "chmod")
    installation.until_probes(**{a: ["chmod"]})
    assert node_probes_calls(operator, "apply") >= 2
    assert operator.ready()


def copy_files(source: TlsFiles, target: TlsFiles) -> None:
    """Replaces TLS files, as a rotation does."""
    shutil.copy(source.certificate, target.certificate)
    shutil.copy(source.key, target.key)
    shutil.copy(source.ca, target.ca)


def test_mutual_tls_with_replaced_files(
    installation: OperatorInstallation,
    node: AddNode,
    connect_agent: ConnectAgent,
    tmp_path: Path,
) -> None:
    """Only certificates of the CA are accepted; replaced files take effect without a restart."""
    first_ca = CertificateAuthority(tmp_path / "ca", "one")
    second_ca = CertificateAuthority(tmp_path / "other", "two")
    a = node("a")
    installation.install()
    installation.policy("p", "execve")
    files = TlsFiles(*(tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt")))
    copy_files(first_ca.issue("operator", uris=("operator",)), files)
    installation.start(
        *("--tls-certificate", str(files.certificate)),
        *("--tls-key", str(files.key)),
        *("--tls-ca", str(files.ca)),
    )
    until(lambda: a in installation.node_probes(), "the node has a configuration")
    first_agent = first_ca.issue("agent", uris=(f"agent/{a}",))
    connect_agent(a, tls=first_agent).apply_next()
    second_agent = second_ca.issue("agent", uris=(f"agent/{a}",))
    trusting_first_ca = TlsFiles(second_agent.certificate, second_agent.key, first_ca.issue("x").ca)
    with pytest.raises(grpc.RpcError):
        get_configuration(installation.address, a, trusting_first_ca)
    with pytest.raises(grpc.RpcError):
        get_configuration(installation.address, a)
    copy_files(second_ca.issue("operator", uris=("operator",)), files)

    def is_accepted(tls: TlsFiles) -> bool:
        try:
            return bool(get_configuration(installation.address, a, tls).digest)
        except grpc.RpcError:
            return False

    until(lambda: is_accepted(second_agent), "certificates of the second CA are accepted")
    assert not is_accepted(first_agent)


def run_command(*arguments: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command, which must end by itself."""
    return subprocess.run(
        [str(BIN / "infrasight-operator"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


def test_startup_errors_name_the_remedy(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """No API, no rights, no TLS and an unknown setting each end with one line and status 1."""
    control_plane.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    nobody = str(control_plane.account_kubeconfig("nobody", namespace))
    free_ports = ("--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0")
    cases = {
        "set KUBECONFIG": run_command("run", KUBECONFIG=str(tmp_path / "none")),
        "its README lists all rights": run_command("run", *free_ports, KUBECONFIG=nobody),
        "there is no TLS": run_command("run", "--listen", "0.0.0.0:7446", KUBECONFIG=nobody),
        "unknown key": run_command("run", INFRASIGHT_OPERATOR_ADRESS="x:1"),
    }
    for expected, done in cases.items():
        last_line = done.stderr.splitlines()[-1]
        assert done.returncode == 1, expected
        assert last_line.startswith("infrasight-operator: ")
        assert expected in last_line
        assert "Traceback" not in done.stderr


def test_help_shows_examples_and_imports_little() -> None:
    """The help has an example, and does not import what only a running operator needs."""
    shown = run_command("run", "--help").stdout
    assert "infrasight-operator run --listen 0.0.0.0:7446" in shown
    script = (
        "import sys, infrasight_operator.command; "
        "assert not {'kopf', 'grpc', 'lightkube', 'pyarrow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
