"""The options of every command that reads from a server."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infrasight_core.console.options import local_server_options, tls_files, tls_options
from infrasight_core.net.address import DEFAULT_SERVER

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds `--server` and the TLS options to a command.

    The command receives `connect`, which returns a client, and `server`, the address if one is
    given.
    """

    @click.option(
        "--server",
        envvar="INFRASIGHT_SERVER",
        show_envvar=True,
        metavar="ADDRESS",
        help=f"The server's address.  [{DEFAULT_SERVER}]",
    )
    @tls_options("the server", variables="INFRASIGHT_TLS_")
    @local_server_options(variables="INFRASIGHT_")
    @functools.wraps(command)
    def with_server(
        server: str | None,
        tls_certificate: str | None,
        tls_key: str | None,
        tls_ca: str | None,
        plaintext: bool | None,
        token_file: str | None,
        server_user: str | None,
        **rest: Any,
    ) -> None:
        def connect() -> "ServerClient":
            # Imported here, because gRPC takes a while to import and `--help` does not need it.
            from infrasight_core.net.peer import Peer
            from infrasight_core.net.server_client import ServerClient

            tls = tls_files(tls_certificate, tls_key, tls_ca)
            token = Path(token_file) if token_file else None
            address = server or DEFAULT_SERVER
            return ServerClient(Peer(address, tls, bool(plaintext), token, server_user or ""))

        command(connect=connect, server=server, **rest)

    return with_server
