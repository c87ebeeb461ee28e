"""Mutual TLS from three PEM files, on both sides of a connection; plaintext only where nobody can listen, or when asked for."""

import ssl
from pathlib import Path

from attrs import frozen

from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address


@frozen
class TlsFiles:
    """What one side needs to show who it is and to know the other.

    Attributes:
        certificate: Its own certificate, followed by intermediate ones, PEM.
        key: That certificate's private key, PEM, not encrypted.
        ca: The certificates that the other side's must be signed by, PEM.
    """

    certificate: Path
    key: Path
    ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """The PEM bytes of certificate, key and CA, seen to be usable together.

        Raises:
            ConfigError: A file cannot be read, is not PEM, or the key is not the certificate's.
        """
        certificate = _read("certificate", self.certificate, b"BEGIN CERTIFICATE")
        key = _read("key", self.key, b"PRIVATE KEY")
        ca = _read("ca", self.ca, b"BEGIN CERTIFICATE")
        # gRPC would only say that a handshake failed; OpenSSL says now what is wrong with the files.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"tls: {self.certificate} and {self.key} do not belong together or are damaged "
                f"({_reason(error)}); give a certificate and its own key, not encrypted"
            ) from error
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"tls.ca: {self.ca} holds no usable certificate ({_reason(error)})"
            ) from error
        return certificate, key, ca


def _read(name: str, path: Path, marker: bytes) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{name}: cannot read {path}: {error.strerror}") from error
    if marker not in content:
        raise ConfigError(f"tls.{name}: {path} is not a PEM file with '{marker.decode()}' in it")
    return content


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def require_tls_or_loopback(address: str, tls: TlsFiles | None, plaintext_allowed: bool) -> None:
    """Sees that no event travels in plaintext by accident.

    Raises:
        ConfigError: The address is not loopback, no TLS files are given, and plaintext is not asked for; or both are.
    """
    if tls is not None and plaintext_allowed:
        raise ConfigError("plaintext is asked for and TLS files are given: leave one of them out")
    if tls is None and not plaintext_allowed and not Address.parse(address).is_loopback:
        raise ConfigError(
            f"{address} is not on this machine and there is no TLS: give certificate, key and ca, "
            "or ask for plaintext in so many words (`plaintext = true`, `--plaintext`)"
        )
