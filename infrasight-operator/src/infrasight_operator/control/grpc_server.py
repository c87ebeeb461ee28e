"""The gRPC server for agents, with TLS files that can be replaced while it runs."""

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
from infrasight_operator.model.agent_report import MAX_REPORT_BYTES

log = structlog.get_logger(__name__)
_MAX_OTHER_CALLS = 1000
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    # Larger than the limit on reports, so that the service can reject a report with a reason.
    ("grpc.max_receive_message_length", 2 * MAX_REPORT_BYTES),
    # Detects an agent whose machine vanished within 50 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def build_server(
    service: ControlService, address: str, tls: TlsFiles | None, plaintext: bool
) -> tuple[grpc.aio.Server, int]:
    """Binds a server that is not started yet; returns it with its port.

    Raises:
        ConfigError: The address or the TLS files are unusable, or neither TLS nor plaintext is
            requested.
    """
    require_tls_or_loopback(address, tls, plaintext)
    options = dict([*server_options(), *_OPTIONS])
    server = grpc.aio.server(
        options=list(options.items()), maximum_concurrent_rpcs=MAX_STREAMS + _MAX_OTHER_CALLS
    )
    add_ControlServiceServicer_to_server(service, server)
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, _reloading_credentials(tls))
    except RuntimeError as error:
        raise ConfigError(
            f"listen: cannot bind {address}; is another operator running, or does the address "
            "belong to another machine?"
        ) from error
    return server, Address.parse(address).port or port


def _reloading_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the TLS files: replaced files take effect at the next handshake."""
    # The type stubs lack that None means "unchanged".
    fetch: Any = _CertificateReloader(tls).reload_if_changed
    return grpc.dynamic_ssl_server_credentials(
        _read_certificates(tls), fetch, require_client_authentication=True
    )


def _read_certificates(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    certificate, key, ca = tls.read()
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)


class _CertificateReloader:
    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._modified = _modification_times(tls)

    def reload_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called at every handshake; None if the files are unchanged or unusable."""
        modified = _modification_times(self._tls)
        if modified == self._modified:
            return None
        try:
            certificates = _read_certificates(self._tls)
        except ConfigError as error:
            log.warning(
                "the new TLS files are unusable; the previous ones stay active", reason=str(error)
            )
            return None
        self._modified = modified
        log.info("loaded new TLS files")
        return certificates


def _modification_times(tls: TlsFiles) -> tuple[int, ...]:
    files: tuple[Path, ...] = (tls.certificate, tls.key, tls.ca)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
