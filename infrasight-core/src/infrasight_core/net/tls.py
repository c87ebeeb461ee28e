"""Reads the PEM files of mutual TLS, and rejects plaintext over the network unless it is set."""

import ssl
from pathlib import Path

from attrs import frozen

from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address


@frozen
class TlsFiles:
    """The files with which a process authenticates itself and its peer.

    Attributes:
        certificate: Path of the own certificate in PEM, followed by any intermediate ones.
        key: Path of the certificate's private key in PEM, not encrypted.
        ca: Path of the CA certificates in PEM that must have signed the peer's certificate.
    """

    certificate: Path
    key: Path
    ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Returns the contents of certificate, key and CA after testing that they work together.

        Raises:
            ConfigError: A file cannot be read or is not PEM, or the key does not belong to the
                certificate.
        """
        certificate = _read_pem("certificate", self.certificate, b"BEGIN CERTIFICATE")
        key = _read_pem("key", self.key, b"PRIVATE KEY")
        ca = _read_pem("ca", self.ca, b"BEGIN CERTIFICATE")
        # gRPC would only report a failed handshake; OpenSSL tells what is wrong with the files.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"tls: {self.certificate} and {self.key} do not belong together or are damaged "
                f"({_describe(error)}); give a certificate and its own key, not encrypted"
            ) from error
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"tls.ca: {self.ca} holds no usable certificate ({_describe(error)})"
            ) from error
        return certificate, key, ca


@frozen
class ListenerTls(TlsFiles):
    """The files with which a listening process authenticates itself and its peers.

    Attributes:
        crl: Path of the revocation lists in PEM, each signed by a CA of `ca`; their certificates
            are rejected.
        shared_agent_certificate: Whether a certificate that all agents of a cluster share may act
            for every node. By default each agent needs a certificate that names its node.
    """

    crl: Path | None = None
    shared_agent_certificate: bool = False

    def read_crl(self) -> bytes:
        """Returns the contents of the revocation lists; empty without. Raises ConfigError."""
        return b"" if self.crl is None else _read_pem("crl", self.crl, b"BEGIN X509 CRL")

    def paths(self) -> tuple[Path, ...]:
        """Returns the paths of all files that are set."""
        paths = (self.certificate, self.key, self.ca)
        return paths if self.crl is None else (*paths, self.crl)


def require_tls_or_loopback(address: str, tls: TlsFiles | None, plaintext: bool) -> None:
    """Rejects settings with which events would travel in plaintext by accident.

    Args:
        address: Where a process listens or connects.
        tls: The files for mutual TLS, if any.
        plaintext: Whether plaintext over the network is set.

    Raises:
        ConfigError: The address is not loopback and neither TLS files nor plaintext are set, or
            both are set.
    """
    if tls is not None and plaintext:
        raise ConfigError("plaintext and TLS files are both set: remove one of them")
    if tls is None and not plaintext and not Address.parse(address).is_loopback:
        raise ConfigError(
            f"{address} is not on this machine and there is no TLS: set certificate, key and ca, "
            "or allow plaintext explicitly (`plaintext = true`, `--plaintext`)"
        )


def _read_pem(name: str, path: Path, marker: bytes) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls.{name}: cannot read {path}: {error.strerror}") from error
    if marker not in content:
        raise ConfigError(f"tls.{name}: {path} is not a PEM file with '{marker.decode()}' in it")
    return content


def _describe(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
