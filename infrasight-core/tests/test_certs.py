"""`infrasight certs`: its certificates state roles, authenticate, and can be revoked."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from infrasight_core.cli import certs
from infrasight_core.errors import AuthenticationError, ConfigError
from infrasight_core.net.certificate_authority import CertificateAuthority
from infrasight_core.net.identity import Role
from infrasight_core.net.trust import Trust


def run(*arguments: str | Path) -> str:
    """Runs the command; returns what it prints."""
    done = CliRunner().invoke(
        certs.command, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("arguments", "name", "role", "node"),
    [
        (("agent", "node-a"), "agent/node-a", Role.AGENT, "node-a"),
        (("agents", "prod"), "agents/prod", Role.AGENTS, ""),
        (("reader", "alice"), "reader/alice", Role.READER, ""),
        (("server", "localhost", "127.0.0.1"), "server", Role.SERVER, ""),
        (("operator", "localhost"), "operator", Role.OPERATOR, ""),
    ],
)
def test_issued_certificate_states_its_role_until_it_is_revoked(
    tmp_path: Path, arguments: tuple[str, ...], name: str, role: Role, node: str
) -> None:
    """The printed settings name files of mode 0600 that work together."""
    folder = tmp_path / "certs"
    run("init", folder)
    printed = run("issue", folder, *arguments)
    certificate = folder / f"{name.replace('/', '-')}.pem"
    assert f'certificate = "{certificate}"' in printed
    assert ("crl =" in printed) == (role in (Role.SERVER, Role.OPERATOR))
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    authority = CertificateAuthority(folder)
    pem = certificate.read_bytes()
    identity = Trust(authority.ca.read_bytes(), authority.crl.read_bytes()).identify(pem)
    assert (identity.name, identity.roles, identity.node) == (name, frozenset({role}), node)
    run("revoke", folder, certificate)
    run("revoke", folder, certificate)
    with pytest.raises(AuthenticationError, match="is revoked"):
        Trust(authority.ca.read_bytes(), authority.crl.read_bytes()).identify(pem)


def test_mistakes_are_named(tmp_path: Path) -> None:
    """A second CA in a folder, a folder without one, bad names and others' certificates."""
    ours = CertificateAuthority.create(tmp_path / "ours", "ours")
    others = CertificateAuthority.create(tmp_path / "others", "others")
    foreign = others.issue(Role.READER, "alice", (), 1).certificate
    with pytest.raises(ConfigError, match="has a CA already"):
        CertificateAuthority.create(tmp_path / "ours", "ours")
    with pytest.raises(ConfigError, match=r"infrasight certs init .*none` makes it"):
        CertificateAuthority(tmp_path / "none")
    with pytest.raises(ConfigError, match="needs a name of letters"):
        ours.issue(Role.AGENT, "../ca", (), 1)
    with pytest.raises(ConfigError, match="was not issued by the CA"):
        ours.revoke(foreign)
