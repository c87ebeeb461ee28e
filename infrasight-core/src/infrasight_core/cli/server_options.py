"""The options of every command that reads from a server."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infrasight_core.errors import ConfigError
from infrasight_core.net.tls import TlsFiles

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

DEFAULT_SERVER = "127.0.0.1:7443"
_HELP = {
    "server": f"The server's address.  [{DEFAULT_SERVER}]",
    "tls-certificate": "Our certificate, PEM; with the next two: mutual TLS.",
    "tls-key": "Its private key, PEM.",
    "tls-ca": "What the server's certificate must be signed by, PEM.",
}


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command gets `connect`, which makes a client, and `server`, the address if one was given."""

    @functools.wraps(command)
    def wrapped(
        server: str | None,
        tls_certificate: Path | None,
        tls_key: Path | None,
        tls_ca: Path | None,
        plaintext: bool,
        **rest: Any,
    ) -> None:
        def connect() -> "ServerClient":
            from infrasight_core.net.server_client import (
                ServerClient,  # gRPC takes a while, and --help needs none
            )

            return ServerClient(
                server or DEFAULT_SERVER, tls_files(tls_certificate, tls_key, tls_ca), plaintext
            )

        command(connect=connect, server=server, **rest)

    flag = click.option(
        "--plaintext",
        envvar="INFRASIGHT_PLAINTEXT",
        is_flag=True,
        help="No TLS, even to another machine.",
    )
    wrapped = flag(wrapped)
    for name, text in reversed(_HELP.items()):
        variable = f"INFRASIGHT_{name.replace('-', '_').upper()}"
        kind = str if name == "server" else click.Path(path_type=Path)
        metavar = "HOST:PORT" if name == "server" else "FILE"
        wrapped = click.option(
            f"--{name}", envvar=variable, show_envvar=True, metavar=metavar, type=kind, help=text
        )(wrapped)
    return wrapped


def tls_files(certificate: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    """The three files, if they are given. Raises ConfigError where some are."""
    if certificate and key and ca:
        return TlsFiles(certificate, key, ca)
    given = {"--tls-certificate": certificate, "--tls-key": key, "--tls-ca": ca}
    if not any(given.values()):
        return None
    missing = [name for name, file in given.items() if file is None]
    raise ConfigError(f"mutual TLS needs three files: {' and '.join(missing)} missing")
