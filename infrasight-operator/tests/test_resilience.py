"""The operator is killed, its API server is, its certificates are replaced: it converges all the same."""

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
from infrasight_testbed.follower import Follower, configuration_of
from infrasight_testbed.operator_process import Installed
from infrasight_testbed.system import BIN, until

MakeNode = Callable[..., str]
Follow = Callable[..., Follower]


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6, 1.0])
def test_killed_at_any_moment_it_converges(
    installed: Installed, node: MakeNode, seconds: float
) -> None:
    """With SIGKILL some time after policies were changed, the next operator brings it to the same end."""
    nodes = [node(name) for name in "abc"]
    installed.install()
    operator = installed.start(ready=False)
    for number in range(5):
        installed.policy(f"p{number}", f"probe_{number}")
    time.sleep(seconds)
    operator.kill()
    installed.delete("probepolicy", "p0")
    installed.policy("p1", "probe_1", "probe_x")
    installed.start()
    wanted = ["probe_1", "probe_2", "probe_3", "probe_4", "probe_x"]
    installed.until_probes(**dict.fromkeys(nodes, wanted))


def test_a_restart_writes_nothing_anew(
    installed: Installed, node: MakeNode, follow: Follow
) -> None:
    """A second operator finds everything as it should be: no NodeProbes is written, and what agents said is still known."""
    a = node("a")
    installed.install()
    installed.policy("p", "execve")
    first = installed.start()
    follow(a).obey()
    until(
        lambda: installed.get("nodeprobes", a).get("status", {}).get("state") == "Running",
        "it runs",
    )
    time.sleep(1)
    assert first.stop() == 0
    version = installed.get("nodeprobes", a)["metadata"]["resourceVersion"]
    generation = installed.get("nodeprobes", a)["metadata"]["generation"]
    second = installed.start()
    until(
        lambda: installed.get("nodeprobes", a)["status"]["state"] == "Disconnected",
        "nobody has come yet",
    )
    assert (
        second.metric(
            'infrasight_operator_api_calls_total{kind="NodeProbes",result="ok",verb="apply"}'
        )
        == 0
    )
    found = installed.get("nodeprobes", a)
    assert found["metadata"]["generation"] == generation
    assert found["metadata"]["resourceVersion"] != version
    assert found["status"]["running"] == ["execve"]


def test_two_at_once_do_no_harm(installed: Installed, node: MakeNode) -> None:
    """While a rolling replacement overlaps, both write the same."""
    a = node("a")
    installed.install()
    first = installed.start()
    second = installed.start_another()
    for number in range(10):
        installed.policy("p", f"probe_{number}")
    installed.until_probes(**{a: ["probe_9"]})
    time.sleep(1)
    calls = [operator.metric("infrasight_operator_api_calls_total") for operator in (first, second)]
    time.sleep(2)
    assert [
        operator.metric("infrasight_operator_api_calls_total") for operator in (first, second)
    ] == calls


def test_the_api_server_goes_and_comes(
    installed: Installed, node: MakeNode, follow: Follow, control_plane: ControlPlane
) -> None:
    """While it is away agents stay connected and are still told what was known; afterwards what was changed is followed."""
    a = node("a")
    installed.install()
    installed.policy("p", "execve")
    operator = installed.start()
    agent = follow(a)
    agent.obey()
    until(
        lambda: installed.get("nodeprobes", a).get("status", {}).get("state") == "Running",
        "it runs",
    )
    control_plane.kill_api_server()
    try:
        agent.report(digest="", running=[])  # something to write
        until(lambda: "it is tried again" in operator.log(), "it cannot write")
        assert configuration_of(installed.address, a).digest
        assert operator.ready()
    finally:
        control_plane.start_api_server()
    installed.policy("p", "execve", "chmod")
    came = agent.next()
    agent.report(digest=came.digest, running=["chmod", "execve"])
    installed.until_probes(**{a: ["chmod", "execve"]})
    until(lambda: installed.get("nodeprobes", a)["status"]["state"] == "Running", "it runs again")


def test_what_was_deleted_unseen_is_noticed(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """A policy that goes while the watch is broken, and too long ago for it to be told, is gone for the operator, too."""
    a = node("a")
    installed.install()
    installed.policy("gone", "open")
    installed.policy("kept", "execve")
    installed.start()
    installed.until_probes(**{a: ["execve", "open"]})
    control_plane.kill_api_server()
    control_plane.start_api_server()
    installed.delete("probepolicy", "gone")
    installed.until_probes(**{a: ["execve"]})


def test_a_token_that_is_replaced_is_read_again(
    installed: Installed, node: MakeNode, control_plane: ControlPlane
) -> None:
    """The token in the file is not taken any more: with the one that has come into its place all goes on, watching too."""
    a = node("a")
    installed.install()
    token = installed.token_in_a_file()
    operator = installed.start()
    installed.policy("p", "execve")
    installed.until_probes(**{a: ["execve"]})
    control_plane.kubectl("delete", "serviceaccount", "operator", "-n", installed.namespace)
    control_plane.kubectl("create", "serviceaccount", "operator", "-n", installed.namespace)
    token.write_text(
        control_plane.kubectl("create", "token", "operator", "-n", installed.namespace)
    )
    control_plane.kill_api_server()  # which ends the watches, and forgets that it knew the former token
    control_plane.start_api_server()
    installed.policy("p", "chmod")
    installed.until_probes(**{a: ["chmod"]})
    assert (
        operator.metric(
            'infrasight_operator_api_calls_total{kind="NodeProbes",result="ok",verb="apply"}'
        )
        >= 2
    )
    assert operator.ready()


def test_mutual_tls_and_new_files(
    installed: Installed, node: MakeNode, follow: Follow, tmp_path: Path
) -> None:
    """Only who shows a certificate of the CA is let in; files that a rotation replaces are used without a restart."""
    authority, others = (
        CertificateAuthority(tmp_path / "ca", "one"),
        CertificateAuthority(tmp_path / "other", "two"),
    )
    a = node("a")
    installed.install()
    installed.policy("p", "execve")
    mine, agents = authority.issue("operator"), authority.issue("agent")
    used = TlsFiles(*(tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt")))
    for source, target in zip(
        (mine.certificate, mine.key, mine.ca), (used.certificate, used.key, used.ca), strict=True
    ):
        shutil.copy(source, target)
    installed.start(
        "--tls-certificate",
        str(used.certificate),
        "--tls-key",
        str(used.key),
        "--tls-ca",
        str(used.ca),
    )
    until(lambda: a in installed.nodes(), "the node is known")
    follow(a, tls=agents).obey()
    stranger = others.issue("agent")
    with pytest.raises(grpc.RpcError):
        configuration_of(
            installed.address,
            a,
            TlsFiles(stranger.certificate, stranger.key, authority.issue("x").ca),
        )
    with pytest.raises(grpc.RpcError):
        configuration_of(installed.address, a)
    theirs = others.issue("operator")
    for source, target in zip(
        (theirs.certificate, theirs.key, theirs.ca),
        (used.certificate, used.key, used.ca),
        strict=True,
    ):
        shutil.copy(source, target)

    def lets_in(files: TlsFiles) -> bool:
        try:
            return bool(configuration_of(installed.address, a, files).digest)
        except grpc.RpcError:
            return False

    until(lambda: lets_in(stranger), "the other CA's agents are let in now")
    assert not lets_in(agents)


def run(*options: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    """The command, which is expected to end by itself."""
    command = [str(BIN / "infrasight-operator"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_errors_say_what_to_do(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """No way to the API, no rights, no TLS, a wrong setting: one line each, and status 1."""
    control_plane.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    nobody = str(control_plane.account("nobody", namespace))
    cases = {
        "set KUBECONFIG": run("run", KUBECONFIG=str(tmp_path / "none")),
        "its README lists what it needs": run(
            "run", "--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0", KUBECONFIG=nobody
        ),
        "there is no TLS": run("run", "--listen", "0.0.0.0:7446", KUBECONFIG=nobody),
        "unknown key": run("run", INFRASIGHT_OPERATOR_ADRESS="x:1"),
    }
    for words, done in cases.items():
        assert done.returncode == 1, words
        assert words in done.stderr.splitlines()[-1] or words in done.stderr
        assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    """The help shows how it is run, and comes without loading what runs it."""
    shown = run("run", "--help").stdout
    assert "infrasight-operator run --listen 0.0.0.0:7446" in shown
    loaded = "import sys, infrasight_operator.cli; assert not {'kopf', 'grpc', 'lightkube', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", loaded], check=True)
