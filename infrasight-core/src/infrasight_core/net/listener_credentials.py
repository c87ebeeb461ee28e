"""The TLS files of a listening process, which are read again when they change."""

import threading
from typing import Any

import grpc
import structlog
from attrs import frozen

from infrasight_core.errors import AuthenticationError, ConfigError
from infrasight_core.net.identity import Identity, Role
from infrasight_core.net.tls import ListenerTls
from infrasight_core.net.trust import Trust

log = structlog.get_logger(__name__)
_Stamp = tuple[int, int, int]


@frozen
class _Loaded:
    configuration: grpc.ServerCertificateConfiguration
    trust: Trust


class ListenerCredentials:
    """The active certificate, key, CAs and revocation lists; replaced files become active at once.

    Args:
        tls: The files.

    Raises:
        ConfigError: A file is unusable.
    """

    def __init__(self, tls: ListenerTls) -> None:
        self._tls = tls
        self._lock = threading.Lock()  # gRPC asks from its own threads
        self._stamps = self._read_stamps()
        self._loaded = self._load()
        self._handed_over = self._loaded

    def for_grpc(self) -> grpc.ServerCredentials:
        """Returns credentials whose handshakes use the newest files and require a certificate."""
        # The type stubs lack that None means "unchanged".
        fetch: Any = self._changed_configuration
        return grpc.dynamic_ssl_server_credentials(
            self._handed_over.configuration, fetch, require_client_authentication=True
        )

    def identify(self, pem: bytes) -> Identity:
        """Returns the identity that a peer's certificate proves.

        Raises:
            AuthenticationError: The certificate proves no identity that is accepted here.
        """
        identity = self._current().trust.identify(pem)
        if Role.AGENTS in identity.roles and not self._tls.shared_agent_certificate:
            raise AuthenticationError(
                f"{identity.name} is a certificate that several agents share: give each agent a "
                "certificate for its node, or set tls.shared_agent_certificate = true here"
            )
        return identity

    def _changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Called at every handshake; None if the files are unchanged or unusable."""
        loaded = self._current()
        if loaded is self._handed_over:
            return None
        self._handed_over = loaded
        return loaded.configuration

    def _current(self) -> _Loaded:
        with self._lock:
            stamps = self._read_stamps()
            if stamps != self._stamps:
                self._stamps = stamps
                try:
                    self._loaded = self._load()
                    log.info("loaded new TLS files")
                except ConfigError as error:
                    log.warning(
                        "the new TLS files are unusable; the previous ones stay active",
                        reason=str(error),
                    )
            return self._loaded

    def _load(self) -> _Loaded:
        certificate, key, ca = self._tls.read()
        configuration = grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=ca
        )
        return _Loaded(configuration, Trust(ca, self._tls.read_crl()))

    def _read_stamps(self) -> tuple[_Stamp | None, ...]:
        stamps: list[_Stamp | None] = []
        for path in self._tls.paths():
            try:
                status = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(stamps)
