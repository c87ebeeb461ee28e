"""Attacks of a local user who listens where an agent or a reader looks for its server."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight_core.errors import InfraSightError
from infrasight_core.net.channel import aio_channel
from infrasight_core.net.listener import verify_listener
from infrasight_core.net.peer import Peer
from infrasight_core.net.server_client import ServerClient
from infrasight_testbed.local_user import USER, LocalUser, open_folder
from infrasight_testbed.ports import free_port
from infrasight_testbed.system import execute, loopback_address, running_system, until

SQUATTER = LocalUser()
TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with open_folder() as created:
        yield created


def query(address: str, **options: object) -> str:
    """Why a reader gets no answer from a server."""
    with ServerClient(Peer(address, **options)) as client:  # type: ignore[arg-type]
        try:
            list(client.query("SELECT 'a secret of the reader'"))
        except InfraSightError as error:
            return str(error)
    return "answered"


def test_agent_waits_for_its_server_while_another_user_has_its_port(folder: Path) -> None:
    """The port is taken while the server is down; no event is sent there or dropped."""
    with running_system(folder) as system:
        system.address = loopback_address()
        server = system.start_server()
        agent = system.start_agent()
        execute("mark-before", 3)
        until(lambda: len(system.rows("mark-before")) == 3, "the first events are stored")
        server.stop()
        with SQUATTER.squatting(system.address) as squatter:
            execute("mark-meanwhile", 3)
            until(lambda: f"user {USER}" in agent.get("readyz"), "the agent names the user")
            assert squatter.stop() == b""
        system.start_server()
        until(lambda: len(system.rows("mark-meanwhile")) == 3, "the waiting events are stored")
        assert agent.stop() == 0


def test_squatter_of_a_port_gets_no_statement() -> None:
    """A reader queries while another user has the server's port; the statement is not sent."""
    address = f"127.0.0.1:{free_port()}"
    with SQUATTER.squatting(address) as squatter:
        assert f"user {USER}, who is not trusted" in query(address)
        assert f"user {USER}, who is not trusted" in query(
            address.replace("127.0.0.1", "localhost")
        )
        assert squatter.stop() == b""


def test_squatter_of_a_port_gets_no_token(folder: Path) -> None:
    """An agent with a token connects while another user has the port; the token is not sent."""
    token_file = folder / "token"
    token_file.touch(0o600)
    token_file.write_text(TOKEN)
    address = f"127.0.0.1:{free_port()}"

    async def connect() -> None:
        async with aio_channel(Peer(address, token_file=token_file)):
            raise AssertionError("the channel was opened")

    with SQUATTER.squatting(address) as squatter:
        with pytest.raises(InfraSightError, match="not trusted"):
            asyncio.run(connect())
        assert f"user {USER}" in query(address, token_file=token_file)
        assert squatter.stop() == b""


def test_squatter_of_ipv6_loopback_gets_nothing_meant_for_localhost() -> None:
    """A user listens on `::1`, which `localhost` may mean as well; nothing is sent there."""
    port = free_port()
    with SQUATTER.squatting(f"::1:{port}") as squatter:
        assert "not trusted" in query(f"localhost:{port}")
        assert squatter.stop() == b""


def test_socket_of_another_user_in_a_shared_folder_gets_nothing(folder: Path) -> None:
    """A user binds the socket in a folder where everyone may write; nothing is sent there."""
    shared = folder / "shared"
    shared.mkdir()
    for mode in (0o777, 0o1777):
        shared.chmod(mode)
        address = f"unix:{shared}/s{mode}"
        with SQUATTER.squatting(address) as squatter:
            assert f"nothing is sent to {address}" in query(address)
            assert squatter.stop() == b""


def test_socket_in_a_folder_that_another_user_created_gets_nothing() -> None:
    """A user creates the socket's missing folder in /tmp; this owner of a folder gets nothing."""
    planted = Path(f"/tmp/infrasight-planted-{os.getpid()}")
    assert SQUATTER.attempt("os.mkdir(arguments, 0o755)", str(planted)) == "done"
    address = f"unix:{planted}/server.sock"
    try:
        with SQUATTER.squatting(address) as squatter:
            assert f"belongs to user {USER}, who is not trusted" in query(address)
            assert squatter.stop() == b""
    finally:
        shutil.rmtree(planted)


def test_link_of_another_user_in_the_path_is_not_followed(folder: Path) -> None:
    """A user's link in a shared folder leads to a good folder for now; it could change any time."""
    good = folder / "good"
    good.mkdir()
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = str(shared / "link")
    assert SQUATTER.attempt("os.symlink(*arguments)", [str(good), link]) == "done"
    assert f"{link} belongs to user {USER}" in query(f"unix:{link}/s")


def test_socket_of_the_owner_of_a_safe_folder_is_trusted_and_no_other(folder: Path) -> None:
    """A user listens in the server's folder by a shared group; only the folder's owner may."""
    server = LocalUser(65533)
    run = folder / "run"
    run.mkdir()
    os.chown(run, server.uid, 1)
    run.chmod(0o770)
    address = f"unix:{run}/s"
    with LocalUser(groups=(1,)).squatting(address) as squatter:
        assert "nothing is sent" in query(address, server_user="65533")
        assert squatter.stop() == b""
    run.chmod(0o755)
    (run / "s").unlink()
    with server.squatting(address) as own:
        assert "nothing is sent" in query(address)
        assert own.stop() == b""
    (run / "s").unlink()
    with server.squatting(address):
        verify_listener(Peer(address, server_user="65533"))


def test_token_file_that_others_may_read_is_not_used(folder: Path) -> None:
    """Another user may read the agent's token; it is not used, and the message has no token."""
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o640)
    peer = Peer("127.0.0.1:1", token_file=token_file)
    with pytest.raises(InfraSightError, match="other users may access") as caught:
        peer.metadata()
    assert TOKEN not in str(caught.value)


def test_token_never_leaves_the_machine(folder: Path) -> None:
    """A token is set together with an address of another machine; the settings are rejected."""
    for peer in (
        Peer("192.0.2.1:7443", plaintext=True, token_file=folder / "token"),
        Peer("127.0.0.1:7443", plaintext=True, token_file=folder / "token"),
    ):
        with pytest.raises(InfraSightError, match="token_file: a token is for a loopback port"):
            peer.require_tls_or_loopback()
