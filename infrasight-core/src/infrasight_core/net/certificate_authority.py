"""A small CA in a folder: makes certificates and revocation lists, for trying out mutual TLS."""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infrasight_core.errors import AuthenticationError, ConfigError
from infrasight_core.net.certificate_names import uri_name
from infrasight_core.net.identity import LISTENERS, Role
from infrasight_core.net.tls import TlsFiles
from infrasight_core.settings.private_files import write_private_file

CA_DAYS = 3650
_CLOCK_SKEW = datetime.timedelta(minutes=5)


class CertificateAuthority:
    """A CA whose certificate, key and revocation list are files in one folder.

    Attributes:
        ca: The path of its certificate.
        crl: The path of its revocation list.

    Args:
        folder: A folder that `create` has filled.

    Raises:
        ConfigError: A file is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self.crl = folder / "crl.pem"
        self._folder = folder
        self._certificate = _read_certificate(self.ca, f"`infrasight certs init {folder}` makes it")
        self._key = _read_key(folder / "ca.key")

    @classmethod
    def create(cls, folder: Path, name: str) -> "CertificateAuthority":
        """Makes a CA with an empty revocation list.

        Args:
            folder: Its folder, which is created if necessary.
            name: Its common name.

        Raises:
            ConfigError: The folder has a CA already, or cannot be written.
        """
        if (folder / "ca.key").exists():
            raise ConfigError(f"{folder} has a CA already; use another folder")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _common_name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {folder}: {error.strerror}") from error
        _write(folder / "ca.key", _to_pem(key))
        _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        authority = cls(folder)
        authority._write_crl({})
        return authority

    def issue(self, role: Role, name: str, hosts: Sequence[str], days: int) -> TlsFiles:
        """Issues a certificate with a new key.

        Args:
            role: The role that it states.
            name: The node, cluster or reader; empty for server and operator.
            hosts: The DNS names and IP addresses that clients use for a server or operator.
            days: How long it is valid.

        Raises:
            ConfigError: The name or a host is malformed, or a file cannot be written.
        """
        try:
            names: list[x509.GeneralName] = [
                x509.UniformResourceIdentifier(uri_name(role, name)),
                *(_host_name(host) for host in hosts),
            ]
        except (AuthenticationError, ValueError) as error:
            raise ConfigError(str(error)) from error
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        if role in LISTENERS:
            usage = ExtendedKeyUsageOID.SERVER_AUTH
        stem = f"{role}-{name}" if name else str(role)
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        certificate = (
            _builder(_common_name(stem[:64]), self._certificate.subject, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key.value),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = TlsFiles(self._folder / f"{stem}.pem", self._folder / f"{stem}.key", self.ca)
        _write(files.key, _to_pem(key))
        _write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return files

    def revoke(self, path: Path) -> None:
        """Adds a certificate to the revocation list.

        Args:
            path: The certificate in PEM.

        Raises:
            ConfigError: A file cannot be read or written, or another CA issued the certificate.
        """
        certificate = _read_certificate(path, "name a certificate that this CA issued")
        if certificate.issuer != self._certificate.subject:
            raise ConfigError(f"{path} was not issued by the CA in {self._folder}")
        revoked = self._revoked()
        revoked.setdefault(certificate.serial_number, datetime.datetime.now(datetime.UTC))
        self._write_crl(revoked)

    def _revoked(self) -> dict[int, datetime.datetime]:
        try:
            revocations = x509.load_pem_x509_crl(self.crl.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {self.crl}: {error}") from error
        return {entry.serial_number: entry.revocation_date_utc for entry in revocations}

    def _write_crl(self, revoked: dict[int, datetime.datetime]) -> None:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(
            self._certificate.subject, now, now + datetime.timedelta(days=CA_DAYS)
        )
        for serial, date in revoked.items():
            entry = x509.RevokedCertificateBuilder(serial, date).build()
            builder = builder.add_revoked_certificate(entry)
        revocations = builder.sign(self._key, hashes.SHA256())
        _write(self.crl, revocations.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer,
        subject,
        key,
        x509.random_serial_number(),
        now - _CLOCK_SKEW,
        now + datetime.timedelta(days=days),
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:  # not an IP address
        return x509.DNSName(host)


def _read_certificate(path: Path, remedy: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate in PEM; {remedy}") from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not a key that `infrasight certs init` made")
    return key


def _to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    try:
        write_private_file(path, content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
