"""Addresses, and where plaintext may go."""

from pathlib import Path

import pytest
from infrasight_core.errors import ConfigError
from infrasight_core.net.address import Address
from infrasight_core.net.tls import TlsFiles, require_tls_or_loopback
from infrasight_testbed.certificates import CertificateAuthority


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/x"]
)
def test_plaintext_stays_on_the_machine(address: str) -> None:
    """Loopback and Unix sockets need no TLS."""
    require_tls_or_loopback(address, None, False)
    assert str(Address.parse(address)) == address


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "db:1", "localhost.example:1", "127.0.0.1.example:1"],
)
def test_plaintext_elsewhere_must_be_asked_for(address: str) -> None:
    """Every other address needs TLS, or the words that ask for plaintext."""
    with pytest.raises(ConfigError, match="plaintext = true"):
        require_tls_or_loopback(address, None, False)
    require_tls_or_loopback(address, None, True)
    require_tls_or_loopback(address, TlsFiles(Path("a"), Path("b"), Path("c")), False)


def test_plaintext_and_tls_contradict() -> None:
    """Who gives certificates and asks for plaintext too is asked which."""
    with pytest.raises(ConfigError, match="remove one of them"):
        require_tls_or_loopback("db:1", TlsFiles(Path("a"), Path("b"), Path("c")), True)


@pytest.mark.parametrize(
    "address",
    ["localhost", "", ":1", "db:port", "db:65536", "::1:5", "http://db:1", "a b:1", "unix:"],
)
def test_malformed_addresses(address: str) -> None:
    """What is not an address is refused with how to write one."""
    with pytest.raises(ConfigError, match=r"write host:port, \[IPv6\]:port or unix:/path"):
        Address.parse(address)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    """Absent, wrong, mismatched and damaged files are each named before any handshake fails."""
    ca = CertificateAuthority(tmp_path / "ca", "ca")
    one, two = ca.issue("one"), ca.issue("two")
    assert [b"BEGIN" in pem for pem in one.read()] == [True] * 3
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for files, said in (
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
            TlsFiles(bad, one.key, one.ca),
            r"bad\.pem and .*one\.key do not belong together or are damaged",
        ),
        (
            TlsFiles(one.certificate, one.key, bad),
            r"tls\.ca: .*bad\.pem holds no usable certificate",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            files.read()
