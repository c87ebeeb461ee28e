"""Attacks of a reader, or of a peer with a stolen certificate of another role, on the server."""

import grpc
import pytest
from infrasight.v1.stream_pb2 import Batch, Container
from infrasight_core.net.peer import Peer
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


@pytest.mark.parametrize("node", [NODE, "alice"])
def test_reader_cannot_write_rows(site: Site, node: str) -> None:
    """A reader opens an agent's stream, also for a node with its own name: nothing is stored."""
    forged = batch(f"reader-{node}", table(5))
    peer = site.peer("reader/alice")
    assert send(peer, hello(node=node), forged) is grpc.StatusCode.PERMISSION_DENIED
    assert site.rows(f"SELECT count() FROM execve_events WHERE batch_id = 'reader-{node}'") == 0


def test_reader_cannot_name_containers(site: Site) -> None:
    """A reader sends container updates to mislead other readers: the table has none."""
    forged = Batch(batch_id="c", probe="execve", containers=[Container(container_id="e" * 64)])
    peer = site.peer("reader/alice")
    assert send(peer, hello(node=VICTIM), forged) is grpc.StatusCode.PERMISSION_DENIED
    assert site.rows(f"SELECT count() FROM containers WHERE container_id = '{'e' * 64}'") == 0


@pytest.mark.parametrize("role", ["server", "operator", f"agent/{NODE}"])
def test_stolen_certificate_of_another_role_cannot_query(site: Site, role: str) -> None:
    """A certificate of server, operator or agent queries all events: PERMISSION_DENIED."""
    error = fail(query, site.peer(role))
    assert status(error) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("role", ["server", "operator"])
def test_stolen_certificate_of_another_role_cannot_watch(site: Site, role: str) -> None:
    """A certificate of server or operator watches all events: PERMISSION_DENIED."""
    error = fail(watch, site.peer(role))
    assert status(error) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "name",
    [
        "reader.infrasight.internal.example",
        "x.reader.infrasight.internal.example",
        "x.reader.infrasight-internal",
        "reader.infrasight.internal",
    ],
)
def test_dns_name_that_resembles_a_role_is_none(site: Site, name: str) -> None:
    """A DNS name that an attacker may own looks like a reader's: UNAUTHENTICATED."""
    error = fail(query, site.peer(dns_names=(name,)))
    assert status(error) is grpc.StatusCode.UNAUTHENTICATED


def test_rejection_shows_no_control_characters_of_a_certificate(site: Site) -> None:
    """A certificate's subject holds terminal escapes: messages and logs show them escaped."""
    files = site.authority.issue("x\x1b[2Jx")
    error = fail(query, Peer(site.peer().address, files))
    assert status(error) is grpc.StatusCode.UNAUTHENTICATED
    assert "\x1b" not in str(error.details())
