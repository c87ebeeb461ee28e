"""The command-line options that several commands share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from infrasight_core.errors import ConfigError
from infrasight_core.net.tls import TlsFiles

_NESTED = re.compile("^(tls|spool)_")  # tables of the settings
Command = TypeVar("Command", bound=Callable[..., Any])


def tls_options(peers: str, variables: str = "") -> Callable[[Command], Command]:
    """Adds `--tls-certificate`, `--tls-key`, `--tls-ca` and `--plaintext`.

    Args:
        peers: The processes at the other end of the connection, as `--help` calls them.
        variables: The prefix of the environment variables that click itself reads, up to and
            including `TLS_` or `TLS__`; empty for a command whose settings are read by
            `infrasight_core.settings`.
    """
    texts = {
        "tls-certificate": "This side's certificate, PEM. Mutual TLS needs all three files.",
        "tls-key": "The private key of that certificate, PEM, not encrypted.",
        "tls-ca": f"The CA certificates that sign the certificates of {peers}, PEM.",
    }

    def add(command: Command) -> Command:
        command = click.option(
            "--plaintext",
            is_flag=True,
            default=None,
            envvar=f"{variables.partition('TLS_')[0]}PLAINTEXT" if variables else None,
            help="Do without TLS, even when the address is not on this machine.",
        )(command)
        for name, text in reversed(texts.items()):
            variable = variables + name.removeprefix("tls-").upper()
            command = click.option(
                f"--{name}",
                metavar="FILE",
                envvar=variable if variables else None,
                show_envvar=bool(variables),
                help=text,
            )(command)
        return command

    return add


def listener_tls_options(peers: str) -> Callable[[Command], Command]:
    """Adds the options of `tls_options`, `--tls-crl` and `--tls-shared-agent-certificate`.

    Args:
        peers: The processes at the other end of the connection, as `--help` calls them.
    """

    def add(command: Command) -> Command:
        command = click.option(
            "--tls-shared-agent-certificate",
            is_flag=True,
            default=None,
            help="Accept a certificate that all agents of a cluster share (role `agents`).",
        )(command)
        command = click.option(
            "--tls-crl", metavar="FILE", help="The revocation lists of those CAs, PEM."
        )(command)
        return tls_options(peers)(command)

    return add


def local_server_options(variables: str = "") -> Callable[[Command], Command]:
    """Adds `--token-file` and `--server-user`.

    Args:
        variables: The prefix of the environment variables; see `tls_options`.
    """

    def add(command: Command) -> Command:
        command = click.option(
            "--server-user",
            metavar="USER",
            envvar=f"{variables}SERVER_USER" if variables else None,
            show_envvar=bool(variables),
            help="The user who may run the server on this machine.  [root, and yourself]",
        )(command)
        return click.option(
            "--token-file",
            metavar="FILE",
            envvar=f"{variables}TOKEN_FILE" if variables else None,
            show_envvar=bool(variables),
            help="A file with the token for a server on a loopback port without TLS.",
        )(command)

    return add


def tls_files(certificate: str | None, key: str | None, ca: str | None) -> TlsFiles | None:
    """The files of the three TLS options; None if none is given.

    Raises:
        ConfigError: Only some of them are given.
    """
    given = {"--tls-certificate": certificate, "--tls-key": key, "--tls-ca": ca}
    if not any(given.values()):
        return None
    missing = [name for name, file in given.items() if not file]
    if missing or not (certificate and key and ca):
        raise ConfigError(f"mutual TLS needs three files: {' and '.join(missing)} missing")
    return TlsFiles(Path(certificate), Path(key), Path(ca))


def config_option(command: Command) -> Command:
    """Adds `--config`, the settings file."""
    return click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A TOML or YAML file of settings.",
    )(command)


def log_level_option(command: Command) -> Command:
    """Adds `--log-level`."""
    return click.option(
        "--log-level", metavar="LEVEL", help="debug, info, warning or error.  [info]"
    )(command)


def settings_flags(options: dict[str, object]) -> dict[str, object]:
    """The options of a command as keys of its settings: `tls_key` is the key `tls.key`."""
    return {_NESTED.sub(r"\1.", name): value for name, value in options.items()}
