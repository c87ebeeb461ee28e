"""The options of every command that reads from a server."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infrasight_core.errors import ConfigError
from infrasight_core.tls import TlsFiles

if TYPE_CHECKING:
    from infrasight_core.transport.client import ServerClient

DEFAULT_SERVER = "127.0.0.1:7443"
_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option("--server", envvar="INFRASIGHT_SERVER", metavar="HOST:PORT", help=f"The server's address.  [{DEFAULT_SERVER}]"),
    click.option("--tls-certificate", envvar="INFRASIGHT_TLS_CERTIFICATE", metavar="FILE", type=_FILE, help="Our certificate, PEM."),
    click.option("--tls-key", envvar="INFRASIGHT_TLS_KEY", metavar="FILE", type=_FILE, help="Its private key, PEM."),
    click.option("--tls-ca", envvar="INFRASIGHT_TLS_CA", metavar="FILE", type=_FILE, help="Who signs the server's certificate, PEM."),
    click.option("--plaintext", envvar="INFRASIGHT_PLAINTEXT", is_flag=True, help="No TLS, even to another machine."),
)


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
            from infrasight_core.transport.client import ServerClient  # gRPC takes a while, and --help needs none

            return ServerClient(server or DEFAULT_SERVER, _tls(tls_certificate, tls_key, tls_ca), plaintext)

        command(connect=connect, server=server, **rest)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _tls(certificate: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    if certificate and key and ca:
        return TlsFiles(certificate, key, ca)
    given = {"--tls-certificate": certificate, "--tls-key": key, "--tls-ca": ca}
    if not any(given.values()):
        return None
    missing = [name for name, file in given.items() if file is None]
    raise ConfigError(f"mutual TLS needs three files: {' and '.join(missing)} missing")
