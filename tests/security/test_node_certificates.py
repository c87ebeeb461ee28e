"""Attacks of a compromised node, whose agent's certificate the attacker has, on the server."""

from pathlib import Path

import grpc
import pytest
from infrasight.v1.stream_pb2 import Account, Batch, Container
from infrasight_core.net.peer import Peer
from infrasight_core.net.tls import TlsFiles
from infrasight_testbed.certificates import CertificateAuthority
from infrasight_testbed.certified_site import (
    NODE,
    VICTIM,
    Site,
    fail,
    query,
    send,
    status,
    watch,
)
from infrasight_testbed.execve_batches import batch, hello, table


def test_agent_cannot_query(site: Site) -> None:
    """An agent's certificate asks for the events of all nodes: PERMISSION_DENIED."""
    error = fail(query, site.peer(f"agent/{NODE}"))
    assert status(error) is grpc.StatusCode.PERMISSION_DENIED
    assert "agent/node-a needs the role reader; its roles: agent" in str(error)


def test_agent_cannot_watch(site: Site) -> None:
    """An agent's certificate watches the events of all nodes: PERMISSION_DENIED."""
    error = fail(watch, site.peer(f"agent/{NODE}"))
    assert status(error) is grpc.StatusCode.PERMISSION_DENIED


def test_agent_cannot_write_rows_of_another_node(site: Site) -> None:
    """An agent's hello names another node: no batch of the stream is stored."""
    peer = site.peer(f"agent/{NODE}")
    forged = batch("forged-rows", table(5))
    assert send(peer, hello(node=VICTIM), forged) is grpc.StatusCode.PERMISSION_DENIED
    assert site.rows("SELECT count() FROM execve_events WHERE batch_id = 'forged-rows'") == 0


def test_agent_cannot_change_the_node_of_its_stream(site: Site) -> None:
    """A second hello on an open stream names another node: the stream ends, nothing is stored."""
    peer = site.peer(f"agent/{NODE}")
    forged = batch("changed-node", table(5))
    messages = (hello(node=NODE), hello(node=VICTIM), forged)
    assert send(peer, *messages) is grpc.StatusCode.PERMISSION_DENIED
    assert site.rows("SELECT count() FROM execve_events WHERE batch_id = 'changed-node'") == 0


def test_agent_cannot_forge_accounts_of_another_node(site: Site) -> None:
    """An agent reports another node's events as dropped: `verify` does not see it."""
    peer = site.peer(f"agent/{NODE}")
    account = Account(run="forged", seen=7, block_full=7)
    forged = Batch(batch_id="forged-account", probe="execve", account=account)
    assert send(peer, hello(node=VICTIM), forged) is grpc.StatusCode.PERMISSION_DENIED
    assert site.rows("SELECT count() FROM accounts WHERE run = 'forged'") == 0


def test_agent_cannot_name_containers_of_another_node(site: Site) -> None:
    """An agent sends a container update in another node's name: the table has none."""
    peer = site.peer(f"agent/{NODE}")
    container = Container(container_id="f" * 64, name=b"harmless")
    forged = Batch(batch_id="forged-container", probe="execve", containers=[container])
    assert send(peer, hello(node=VICTIM), forged) is grpc.StatusCode.PERMISSION_DENIED
    assert site.rows(f"SELECT count() FROM containers WHERE node = '{VICTIM}'") == 0


def test_node_name_with_another_node_as_prefix_is_another_node(site: Site) -> None:
    """The agent of `node-b.evil` writes as `node-b`: names are compared as a whole."""
    peer = site.peer(f"agent/{VICTIM}.evil")
    assert send(peer, hello(node=VICTIM)) is grpc.StatusCode.PERMISSION_DENIED


def test_certificate_without_a_role_can_do_nothing(site: Site) -> None:
    """A certificate of the right CA without a role writes and reads: UNAUTHENTICATED."""
    peer = site.peer()
    assert send(peer, hello(node=NODE)) is grpc.StatusCode.UNAUTHENTICATED
    error = fail(query, peer)
    assert status(error) is grpc.StatusCode.UNAUTHENTICATED
    assert "names no role: it needs one URI name such as spiffe://" in str(error)


def test_certificate_with_two_roles_has_none(site: Site) -> None:
    """A certificate names an agent and a reader to gain both roles: UNAUTHENTICATED."""
    peer = site.peer(f"agent/{NODE}", "reader/x")
    assert send(peer, hello(node=NODE)) is grpc.StatusCode.UNAUTHENTICATED
    error = fail(query, peer)
    assert "names several roles (agent/node-a, reader/x)" in str(error)


def test_certificate_of_two_nodes_has_no_role(site: Site) -> None:
    """A certificate names its node and the victim's: UNAUTHENTICATED."""
    peer = site.peer(f"agent/{NODE}", f"agent/{VICTIM}")
    assert send(peer, hello(node=VICTIM)) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://infrasight.test/other/infrasight/agent/node-b",
        "spiffe://infrasight.test/infrasight/agents",
        "spiffe://infrasight.test/infrasight/agent/node-b/..",
        "spiffe://infrasight.test/infrasight/agent/%6eode-b",
        "https://infrasight.test/infrasight/agent/node-b",
    ],
)
def test_name_that_resembles_a_role_is_none(site: Site, uri: str) -> None:
    """A certificate's URI only looks like another node's role: UNAUTHENTICATED."""
    assert send(site.peer(uri), hello(node=VICTIM)) is grpc.StatusCode.UNAUTHENTICATED


def test_common_name_gives_no_role(site: Site) -> None:
    """A certificate states the role in its common name, which CAs rarely check."""
    files = site.authority.issue("reader", dns_names=("reader.infrasight.internal.example",))
    error = fail(query, Peer(site.peer().address, files))
    assert status(error) is grpc.StatusCode.UNAUTHENTICATED


def test_shared_certificate_needs_the_setting(site: Site) -> None:
    """A certificate of the role `agents` writes for any node where no setting allows it."""
    peer = site.peer("agents/cluster")
    assert send(peer, hello(node=VICTIM)) is grpc.StatusCode.UNAUTHENTICATED


def test_agent_with_server_certificate_cannot_write(site: Site) -> None:
    """A stolen certificate of the server writes rows: it is no agent's."""
    peer = site.peer("server")
    assert send(peer, hello(node=VICTIM)) is grpc.StatusCode.PERMISSION_DENIED


def test_expired_certificate_cannot_connect(site: Site) -> None:
    """An agent's certificate of yesterday writes again: there is no connection."""
    peer = site.peer(f"agent/{NODE}", days=-1)
    assert send(peer, hello(node=NODE)) is grpc.StatusCode.UNAVAILABLE


def test_certificate_of_a_ca_with_the_same_name_cannot_connect(site: Site, tmp_path: Path) -> None:
    """An attacker's CA calls itself like the real one: there is no connection."""
    others = CertificateAuthority(tmp_path, "ours").issue("x", uris=(f"agent/{NODE}",))
    files = TlsFiles(others.certificate, others.key, site.authority.ca)
    peer = Peer(site.peer().address, files)
    assert send(peer, hello(node=NODE)) is grpc.StatusCode.UNAVAILABLE
