"""The gRPC server: where agents connect, and with which certificates."""

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from infrasight.v1.control_pb2_grpc import add_ControlServiceServicer_to_server
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.channel import server_options
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback

from infrasight_operator.control.service import MAX_STREAMS, ControlService
from infrasight_operator.model.agent_report import MAX_BYTES

log = structlog.get_logger(__name__)
_ASKING = 1000  # calls beside the agents' streams
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    (
        "grpc.max_receive_message_length",
        2 * MAX_BYTES,
    ),  # what is over MAX_BYTES is rejected with words
    # An agent's machine that has vanished must not count as connected for long.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def listen(
    service: ControlService, address: str, tls: TlsFiles | None, plaintext: bool
) -> tuple[grpc.aio.Server, int]:
    """A server that is not started yet, and its port.

    Raises:
        ConfigError: It cannot listen there, the TLS files are not usable, or neither TLS nor plaintext is asked for.
    """
    require_tls_or_loopback(address, tls, plaintext)
    options = dict([*server_options(), *_OPTIONS])
    server = grpc.aio.server(
        options=list(options.items()), maximum_concurrent_rpcs=MAX_STREAMS + _ASKING
    )
    add_ControlServiceServicer_to_server(service, server)
    try:
        port = (
            server.add_insecure_port(address)
            if tls is None
            else server.add_secure_port(address, _credentials(tls))
        )
    except RuntimeError as error:
        raise ConfigError(
            f"listen: {address}: cannot listen there; is another operator running, or the address not ours?"
        ) from error
    return server, Address.parse(address).port or port


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files: what a rotation wrote is used from the next handshake on."""
    fetch: Any = _Rotation(tls).changed  # the stubs do not know that it may say None: as before
    return grpc.dynamic_ssl_server_credentials(
        _configuration(tls), fetch, require_client_authentication=True
    )


def _configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    certificate, key, ca = tls.read()
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)


class _Rotation:
    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._read = _times(tls)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake; None where nothing is new, or what is new cannot be used (yet)."""
        now = _times(self._tls)
        if now == self._read:
            return None
        try:
            made = _configuration(self._tls)
        except ConfigError as error:
            log.warning("the new TLS files are not usable, the former hold", reason=str(error))
            return None
        self._read = now
        log.info("the TLS files are new")
        return made


def _times(tls: TlsFiles) -> tuple[int, ...]:
    files: tuple[Path, ...] = (tls.certificate, tls.key, tls.ca)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
