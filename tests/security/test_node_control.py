"""Attacks of a compromised node, or of a reader, on the operator's service for agents."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from infrasight.v1 import control_pb2
from infrasight_core.net import call_guard
from infrasight_core.net.tls import ListenerTls, TlsFiles
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.control_service import ControlEndpoint, running_control_service
from infrasight_testbed.fake_agent import FakeAgent, get_configuration
from infrasight_testbed.system import until

NODE = "node-a"
VICTIM = "node-b"


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    """The CA of all certificates."""
    return CertificateAuthority(tmp_path / "ca", "ours")


@pytest.fixture
def operator(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[ControlEndpoint]:
    """An operator of both nodes; the parameter is whether agents may share a certificate."""
    monkeypatch.setattr(call_guard, "RECHECK_SECONDS", 0.1)
    own = authority.issue("operator", uris=("operator",))
    shared = bool(getattr(request, "param", False))
    tls = ListenerTls(own.certificate, own.key, own.ca, authority.revoke(), shared)
    with running_control_service(tls, NODE, VICTIM) as endpoint:
        yield endpoint


@pytest.fixture
def victim(operator: ControlEndpoint, authority: CertificateAuthority) -> Iterator[FakeAgent]:
    """The connected agent of the attacked node."""
    files = authority.issue(VICTIM, uris=(f"agent/{VICTIM}",))
    agent = FakeAgent(operator.address, VICTIM, "honest-pod", files)
    assert agent.next_configuration().digest == VICTIM
    yield agent
    agent.close()


@pytest.fixture
def attacker(authority: CertificateAuthority) -> TlsFiles:
    """The certificate of the other node's agent."""
    return authority.issue(NODE, uris=(f"agent/{NODE}",))


def follow(operator: ControlEndpoint, node: str, tls: TlsFiles) -> grpc.RpcError:
    """Reports as a node's agent, which must fail; returns how."""
    agent = FakeAgent(operator.address, node, "evil-pod", tls)
    try:
        with pytest.raises(grpc.RpcError) as raised:
            agent.next_configuration()
    finally:
        agent.close()
    return raised.value


def fetch(operator: ControlEndpoint, node: str, tls: TlsFiles) -> grpc.RpcError:
    """Asks for a node's configuration, which must fail; returns how."""
    with pytest.raises(grpc.RpcError) as raised:
        get_configuration(operator.address, node, tls)
    return raised.value


def pod(operator: ControlEndpoint, node: str) -> str:
    """The pod whose agent reported last for a node; empty if none did."""
    report = operator.look(lambda agents: agents.report(node))
    return report.pod if report else ""


def test_agent_cannot_report_for_another_node(
    operator: ControlEndpoint, attacker: TlsFiles
) -> None:
    """An agent reports another node's probes as running: PERMISSION_DENIED, nothing is stored."""
    error = follow(operator, VICTIM, attacker)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "agent/node-a may not act for node 'node-b'" in str(error.details())
    assert pod(operator, VICTIM) == ""


def test_agent_cannot_displace_the_stream_of_another_node(
    operator: ControlEndpoint, attacker: TlsFiles, victim: FakeAgent
) -> None:
    """An agent follows in the place of a connected one: the honest stream stays."""
    assert follow(operator, VICTIM, attacker).code() is grpc.StatusCode.PERMISSION_DENIED
    victim.report(digest="still-here")
    until(
        lambda: operator.look(lambda agents: agents.report(VICTIM)).digest == "still-here",  # type: ignore[union-attr]
        "the honest agent still reports",
    )
    assert pod(operator, VICTIM) == "honest-pod"


def test_agent_cannot_read_the_configuration_of_another_node(
    operator: ControlEndpoint, attacker: TlsFiles
) -> None:
    """An agent fetches another node's options, which may hold secrets: PERMISSION_DENIED."""
    assert get_configuration(operator.address, NODE, attacker).digest == NODE
    assert fetch(operator, VICTIM, attacker).code() is grpc.StatusCode.PERMISSION_DENIED


def test_agent_cannot_learn_which_nodes_exist(
    operator: ControlEndpoint, attacker: TlsFiles
) -> None:
    """An agent asks for other names: existing and unknown nodes get the same answer."""
    errors = [fetch(operator, node, attacker) for node in (VICTIM, "node-x")]
    details = [str(error.details()).replace("node-x", VICTIM) for error in errors]
    assert errors[0].code() is errors[1].code() is grpc.StatusCode.PERMISSION_DENIED
    assert details[0] == details[1]


def test_agent_cannot_switch_nodes_in_its_stream(
    operator: ControlEndpoint, attacker: TlsFiles, victim: FakeAgent
) -> None:
    """A later report on an open stream names another node: the stream ends, the report is lost."""
    agent = FakeAgent(operator.address, NODE, tls=attacker)
    assert agent.next_configuration().digest == NODE
    agent.send(control_pb2.Report(node=VICTIM, pod="evil-pod", agent_version="1.0"))
    with pytest.raises(grpc.RpcError, match="belongs to 'node-a'"):
        agent.next_configuration()
    agent.close()
    assert pod(operator, victim.node) == "honest-pod"


@pytest.mark.parametrize("role", ["reader/alice", "server", "operator"])
def test_other_roles_cannot_follow(
    operator: ControlEndpoint, authority: CertificateAuthority, role: str
) -> None:
    """A reader, or a stolen certificate of a server, follows as an agent: PERMISSION_DENIED."""
    files = authority.issue("other", uris=(role,))
    assert follow(operator, VICTIM, files).code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("role", ["reader/alice", "server", "operator"])
def test_other_roles_cannot_read_configurations(
    operator: ControlEndpoint, authority: CertificateAuthority, role: str
) -> None:
    """A reader, or a stolen certificate of a server, fetches options: PERMISSION_DENIED."""
    files = authority.issue("other", uris=(role,))
    assert fetch(operator, VICTIM, files).code() is grpc.StatusCode.PERMISSION_DENIED


def test_certificate_without_a_role_can_do_nothing(
    operator: ControlEndpoint, authority: CertificateAuthority
) -> None:
    """A certificate of the right CA without a role reports and asks: UNAUTHENTICATED."""
    files = authority.issue("nobody")
    assert follow(operator, VICTIM, files).code() is grpc.StatusCode.UNAUTHENTICATED
    assert fetch(operator, VICTIM, files).code() is grpc.StatusCode.UNAUTHENTICATED


def test_shared_certificate_needs_the_setting(
    operator: ControlEndpoint, authority: CertificateAuthority
) -> None:
    """A certificate of the role `agents` acts for any node where no setting allows it."""
    files = authority.issue("shared", uris=("agents/cluster",))
    assert follow(operator, VICTIM, files).code() is grpc.StatusCode.UNAUTHENTICATED
    assert fetch(operator, VICTIM, files).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("operator", [True], indirect=True, ids=["shared"])
def test_shared_certificate_cannot_displace_a_node_with_its_own(
    operator: ControlEndpoint, authority: CertificateAuthority, victim: FakeAgent
) -> None:
    """A stolen shared certificate follows in the place of a node that has its own: rejected."""
    files = authority.issue("shared", uris=("agents/cluster",))
    error = follow(operator, VICTIM, files)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "has an open stream of agent/node-b" in str(error.details())
    assert pod(operator, victim.node) == "honest-pod"


def test_open_stream_of_a_revoked_certificate_ends(
    operator: ControlEndpoint, authority: CertificateAuthority, attacker: TlsFiles
) -> None:
    """An agent keeps following after its certificate was revoked: its stream ends."""
    agent = FakeAgent(operator.address, NODE, tls=attacker)
    assert agent.next_configuration().digest == NODE
    authority.revoke(attacker)
    with pytest.raises(grpc.RpcError, match="is revoked"):
        agent.next_configuration()
    agent.close()
    assert fetch(operator, NODE, attacker).code() is grpc.StatusCode.UNAUTHENTICATED
