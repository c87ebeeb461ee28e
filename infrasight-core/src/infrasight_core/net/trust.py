"""Decides which certificates of peers to accept: those of the trusted CAs that are not revoked."""

import datetime
import re
from functools import lru_cache

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from infrasight_core.errors import AuthenticationError, ConfigError
from infrasight_core.net.certificate_names import read_identity
from infrasight_core.net.identity import Identity

_CRL_BEGINS = b"-----BEGIN X509 CRL-----"
_CRL = re.compile(_CRL_BEGINS + rb".+?-----END X509 CRL-----", re.DOTALL)
_REMEMBERED = 4096
_SAN_ERRORS = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


@frozen
class _Peer:
    certificate: x509.Certificate
    identity: Identity


class Trust:
    """The trusted CAs and their revocation lists.

    Args:
        ca: CA certificates in PEM. A certificate of a peer must be signed by one of them directly.
        crl: Revocation lists in PEM, each signed by one of the CAs; may be empty.

    Raises:
        ConfigError: A certificate or list is damaged, or no CA of `ca` signed a list.
    """

    def __init__(self, ca: bytes, crl: bytes = b"") -> None:
        try:
            self._authorities = x509.load_pem_x509_certificates(ca)
        except ValueError as error:
            raise ConfigError(f"tls.ca: cannot read its certificates: {error}") from error
        self._revoked: dict[x509.Name, set[int]] = {}
        lists = _CRL.findall(crl)
        if len(lists) != crl.count(_CRL_BEGINS):
            raise ConfigError("tls.crl: a revocation list is cut off; write the file in one step")
        for pem in lists:
            self._add_revocation_list(pem)
        # A peer opens many calls on one connection.
        self._peer = lru_cache(_REMEMBERED)(self._parse)

    def identify(self, pem: bytes) -> Identity:
        """Returns the identity that a certificate proves, after its handshake.

        Args:
            pem: The certificate in PEM.

        Raises:
            AuthenticationError: The certificate is revoked or expired, its CA is not trusted any
                more, or it names no role.
        """
        peer = self._peer(pem)
        subject = peer.certificate.subject.rfc4514_string()
        if peer.certificate.serial_number in self._revoked.get(peer.certificate.issuer, ()):
            raise AuthenticationError(f"the certificate {subject!r} is revoked; issue a new one")
        if peer.certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
            raise AuthenticationError(
                f"the certificate {subject!r} expired at {peer.certificate.not_valid_after_utc}"
            )
        return peer.identity

    def _parse(self, pem: bytes) -> _Peer:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            subject = certificate.subject.rfc4514_string()
        except ValueError as error:
            raise AuthenticationError(f"the certificate is damaged: {error}") from error
        if not any(_has_signed(authority, certificate) for authority in self._authorities):
            issuer = certificate.issuer.rfc4514_string()
            raise AuthenticationError(
                f"the certificate {subject!r} is signed by {issuer!r}, which is not in tls.ca; an "
                "intermediate CA must be there too"
            )
        uris: list[str] = []
        dns_names: list[str] = []
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
            dns_names = names.value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            return _Peer(certificate, read_identity(subject, (), ()))
        except _SAN_ERRORS as error:
            raise AuthenticationError(
                f"the certificate {subject!r} has unreadable names: {error}"
            ) from error
        return _Peer(certificate, read_identity(subject, uris, dns_names))

    def _add_revocation_list(self, pem: bytes) -> None:
        try:
            revocations = x509.load_pem_x509_crl(pem)
            issuer = revocations.issuer
            authorities = [ca for ca in self._authorities if ca.subject == issuer]
            if not any(revocations.is_signature_valid(ca.public_key()) for ca in authorities):  # type: ignore[arg-type]
                raise ConfigError(
                    f"tls.crl: no CA of tls.ca signed the list of {issuer.rfc4514_string()!r}; "
                    "add that CA or remove the list"
                )
            serials = self._revoked.setdefault(issuer, set())
            serials.update(entry.serial_number for entry in revocations)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"tls.crl: cannot read a revocation list: {error}") from error


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
