"""Addresses, the files of mutual TLS, and where plaintext is allowed."""

from pathlib import Path

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback
from infrasight_testbed.certificates import CertificateAuthority

FILES = TlsFiles(Path("a"), Path("b"), Path("c"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/x"]
)
def test_loopback_needs_no_tls(address: str) -> None:
    """Loopback addresses and Unix sockets may use plaintext."""
    require_tls_or_loopback(address, None, plaintext=False)
    assert str(Address.parse(address)) == address


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "db:1", "localhost.example:1", "127.0.0.1.example:1"],
)
def test_network_needs_tls_or_explicit_plaintext(address: str) -> None:
    """Every other address needs TLS files, or the setting `plaintext`."""
    with pytest.raises(ConfigError, match="plaintext = true"):
        require_tls_or_loopback(address, None, plaintext=False)
    require_tls_or_loopback(address, None, plaintext=True)
    require_tls_or_loopback(address, FILES, plaintext=False)


def test_tls_files_and_plaintext_exclude_each_other() -> None:
    """Setting both is an error."""
    with pytest.raises(ConfigError, match="remove one of them"):
        require_tls_or_loopback("db:1", FILES, plaintext=True)


@pytest.mark.parametrize(
    "address",
    ["localhost", "", ":1", "db:port", "db:65536", "::1:5", "http://db:1", "a b:1", "unix:"],
)
def test_malformed_address_is_rejected(address: str) -> None:
    """The error shows how to write an address."""
    with pytest.raises(ConfigError, match=r"write host:port, \[IPv6\]:port or unix:/path"):
        Address.parse(address)


def test_unusable_tls_files_are_named(tmp_path: Path) -> None:
    """Missing, wrong, mismatched and damaged files are each named before a handshake fails."""
    authority = CertificateAuthority(tmp_path / "ca", "ca")
    one = authority.issue("one")
    two = authority.issue("two")
    assert [b"BEGIN" in pem for pem in one.read()] == [True] * 3
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    expected = [
        (
            TlsFiles(tmp_path / "no.pem", one.key, one.ca),
            r"tls\.certificate: cannot read .*no\.pem: No such file",
        ),
        (
            TlsFiles(one.certificate, one.certificate, one.ca),
            r"tls\.key: .*one\.pem is not a PEM file with 'PRIVATE KEY'",
        ),
        (
            TlsFiles(one.certificate, two.key, one.ca),
            r"one\.pem and .*two\.key do not belong together",
        ),
        (
            TlsFiles(damaged, one.key, one.ca),
            r"damaged\.pem and .*one\.key do not belong together or are damaged",
        ),
        (
            TlsFiles(one.certificate, one.key, damaged),
            r"tls\.ca: .*damaged\.pem holds no usable certificate",
        ),
    ]
    for files, message in expected:
        with pytest.raises(ConfigError, match=message):
            files.read()
