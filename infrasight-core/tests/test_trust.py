"""Which certificates prove which identity."""

from pathlib import Path

import pytest
from infrasight_core.errors import AuthenticationError, ConfigError
from infrasight_core.net.certificate_names import read_identity
from infrasight_core.net.tls import TlsFiles
from infrasight_core.net.trust import Trust
from infrasight_testbed.certificates import CertificateAuthority, bundle


def identify(trust: Trust, files: TlsFiles) -> str:
    """The name of the identity that a certificate proves."""
    return trust.identify(files.certificate.read_bytes()).name


@pytest.mark.parametrize(
    ("uris", "dns_names", "name"),
    [
        (["spiffe://example.org/infrasight/agent/node-a.example"], [], "agent/node-a.example"),
        ([], ["node-a.example.agent.infrasight.internal"], "agent/node-a.example"),
        ([], ["operator.infrasight.internal", "operator.example"], "operator"),
        (["spiffe://a/other", "https://b", "spiffe://a/infrasight/server"], [], "server"),
        (["spiffe://a/infrasight/reader/x"], ["x.reader.infrasight.internal"], "reader/x"),
    ],
)
def test_names_state_one_role(uris: list[str], dns_names: list[str], name: str) -> None:
    """A URI name or a DNS name; names of other systems do not matter."""
    assert read_identity("CN=x", uris, dns_names).name == name


@pytest.mark.parametrize(
    ("uris", "dns_names", "message"),
    [
        ([], ["localhost"], "names no role: it needs one URI name"),
        (["spiffe://a/x/infrasight/reader/x", "https://a/infrasight/reader/x"], [], "no role"),
        ([], ["x.reader.infrasight.internal.example.com", "infrasight.internal"], "no role"),
        (["spiffe://a/infrasight/agent/x", "spiffe://a/infrasight/reader/x"], [], "several roles"),
        (["spiffe://a/infrasight/agent/x"], ["y.agent.infrasight.internal"], "several roles"),
        (["spiffe://a/infrasight/root/x"], [], "'root' is unknown"),
        (["spiffe://a/infrasight/Reader/x"], [], "'Reader' is unknown"),
        (["spiffe://a/infrasight/agent"], [], "needs a name"),
        (["spiffe://a/infrasight/agent/"], [], "ends with a slash"),
        (["spiffe://a/infrasight/agent/x/y"], [], "needs a name"),
        (["spiffe://a/infrasight/agent/x\n"], [], "needs a name"),
        (["spiffe://a/infrasight/agent/.."], [], "needs a name"),
        (["spiffe://a/infrasight/agent/" + "x" * 300], [], "needs a name"),
        (["spiffe://a/infrasight/server/x"], [], "takes no name"),
        ([], ["x.server.infrasight.internal"], "takes no name"),
    ],
)
def test_other_names_state_no_role(uris: list[str], dns_names: list[str], message: str) -> None:
    """The message tells what the certificate lacks."""
    with pytest.raises(AuthenticationError, match=message):
        read_identity("CN=x", uris, dns_names)


def test_intermediate_ca_must_be_trusted_itself(tmp_path: Path) -> None:
    """A certificate of an intermediate CA counts if that CA is in `tls.ca`, also for its list."""
    root = CertificateAuthority(tmp_path / "root", "root")
    intermediate = CertificateAuthority(tmp_path / "intermediate", "intermediate", root)
    files = intermediate.issue("reader", uris=("reader/x",))
    with pytest.raises(AuthenticationError, match="an intermediate CA must be there too"):
        identify(Trust(root.ca.read_bytes()), files)
    both = bundle(tmp_path / "both.pem", root, intermediate).read_bytes()
    assert identify(Trust(both), files) == "reader/x"
    lists = root.revoke().read_bytes() + intermediate.revoke(files).read_bytes()
    with pytest.raises(AuthenticationError, match="revoked"):
        identify(Trust(both, lists), files)


def test_list_of_another_ca_is_rejected(tmp_path: Path) -> None:
    """A revocation list that no trusted CA signed is an error, also under the CA's own name."""
    ours = CertificateAuthority(tmp_path / "ours", "ours")
    for name in ("ours", "others"):
        other = CertificateAuthority(tmp_path / f"other-{name}", name)
        with pytest.raises(ConfigError, match=f"no CA of tls.ca signed the list of 'CN={name}'"):
            Trust(ours.ca.read_bytes(), other.revoke().read_bytes())


def test_expired_certificate_proves_nothing(tmp_path: Path) -> None:
    """It may still be in use on a connection that is older."""
    authority = CertificateAuthority(tmp_path, "ours")
    files = authority.issue("reader", uris=("reader/x",), days=-1)
    with pytest.raises(AuthenticationError, match="expired at"):
        identify(Trust(authority.ca.read_bytes()), files)
