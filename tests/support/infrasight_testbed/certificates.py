"""Certificates for tests of mutual TLS."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from infrasight_core.net.tls import TlsFiles

_DAY = datetime.timedelta(days=1)


class CertificateAuthority:
    """A CA of a test.

    Attributes:
        ca: The path of its certificate.
        crl: The path of its revocation list, which `revoke` writes.

    Args:
        folder: The folder for its files.
        name: Its common name.
        parent: The CA that signs its certificate; None for a root.
    """

    def __init__(
        self, folder: Path, name: str, parent: "CertificateAuthority | None" = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.crl = folder / "crl.pem"
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._revoked: list[int] = []
        issuer = parent or self
        certificate = (
            issuer._builder(self._subject, self._key.public_key(), days=2)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer._key, hashes.SHA256())
        )
        self.ca.write_bytes(_to_pem(certificate))

    def issue(
        self,
        subject: str,
        organization: str = "",
        *,
        uris: tuple[str, ...] = (),
        dns_names: tuple[str, ...] = ("localhost",),
        days: float = 2,
    ) -> TlsFiles:
        """A certificate for localhost and its key.

        Args:
            subject: Its common name, and the name of its files.
            organization: Kubernetes' group.
            uris: Its URI names. One without a scheme is the rest of a name of InfraSight, such as
                `agent/node-a`.
            dns_names: Its DNS names.
            days: How long it is valid; if negative, since when it has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        for uri in uris:
            full = uri if ":" in uri else f"spiffe://infrasight.test/infrasight/{uri}"
            names.append(x509.UniformResourceIdentifier(full))
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
        if organization:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        certificate = (
            self._builder(x509.Name(attributes), key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = TlsFiles(self._folder / f"{subject}.pem", self._folder / f"{subject}.key", self.ca)
        files.certificate.write_bytes(_to_pem(certificate))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def revoke(self, *files: TlsFiles) -> Path:
        """Writes a revocation list with these certificates besides those revoked before."""
        for one in files:
            certificate = x509.load_pem_x509_certificate(one.certificate.read_bytes())
            self._revoked.append(certificate.serial_number)
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(self._subject, now, now + _DAY)
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder(serial, now).build()
            builder = builder.add_revoked_certificate(entry)
        revocations = builder.sign(self._key, hashes.SHA256())
        _replace(self.crl, revocations.public_bytes(serialization.Encoding.PEM))
        return self.crl

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            self._subject,
            subject,
            key,
            x509.random_serial_number(),
            now - 30 * _DAY,
            now + days * _DAY,
        )
        # They tell two CAs of the same name apart.
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key)
        return builder.add_extension(issuer_key, critical=False).add_extension(
            subject_key, critical=False
        )


def bundle(path: Path, *authorities: CertificateAuthority, lists: bool = False) -> Path:
    """Writes the certificates of several CAs, or their revocation lists, into one file, at once."""
    files = [authority.revoke() if lists else authority.ca for authority in authorities]
    _replace(path, b"".join(file.read_bytes() for file in files))
    return path


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


def _to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def tls_options(files: TlsFiles) -> list[str]:
    """The options with which a command uses a certificate."""
    names = ("certificate", "key", "ca")
    return [f"--tls-{name}={getattr(files, name)}" for name in names]
