"""`infrasight certs`: a small CA in a folder, for trying out mutual TLS."""

from pathlib import Path

import click

from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.errors import ConfigError
from infrasight_core.net.identity import LISTENERS, Role

_EXAMPLES = f"""\b
Examples:
  infrasight certs init ./certs
      a CA, with an empty revocation list
  infrasight certs issue ./certs server events.example 192.0.2.7
  infrasight certs issue ./certs agent node-a
  infrasight certs issue ./certs reader alice
      certificates; each command prints the settings that use it
  infrasight certs revoke ./certs ./certs/agent-node-a.pem
      servers and operators that have crl.pem as tls.crl end its connections

\b
Each certificate states one role:
  agent NODE       write the events of NODE, and follow its configuration
  reader NAME      query and watch events
  server HOST...     listen for agents and readers; HOST is what they connect to
  operator HOST...   listen for agents
  agents CLUSTER   one certificate for all agents of a cluster; server and operator accept it
                   only with tls.shared_agent_certificate = true

\b
Keys are not encrypted, and the CA's key lies beside them: for production use a CA such as
step-ca, cert-manager or SPIRE. docs/certificates.md shows how.

{EXIT_STATUSES}"""
_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


@click.group("certs", epilog=_EXAMPLES)
def command() -> None:
    """Make a CA and certificates that state a role, for trying out mutual TLS."""


@command.command(epilog=_EXAMPLES)
@_FOLDER
@click.option("--name", default="InfraSight CA", show_default=True, help="The CA's common name.")
def init(folder: Path, name: str) -> None:
    """Make a CA in DIR: ca.pem, ca.key and an empty revocation list crl.pem."""
    # Imported here, because `--help` does not need it.
    from infrasight_core.net.certificate_authority import CertificateAuthority

    authority = CertificateAuthority.create(folder, name)
    print(f"made {authority.ca}; next: infrasight certs issue {folder} server HOST")


@command.command(epilog=_EXAMPLES)
@_FOLDER
@click.argument("role", metavar="ROLE", type=click.Choice([role.value for role in Role]))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True)
def issue(folder: Path, role: str, names: tuple[str, ...], days: int) -> None:
    """Issue a certificate for a ROLE with a new key, and print the settings that use it.

    NAME is the node, reader or cluster; for server and operator the names and addresses that
    clients connect to.
    """
    from infrasight_core.net.certificate_authority import CertificateAuthority

    authority = CertificateAuthority(folder)
    if role in LISTENERS:
        files = authority.issue(Role(role), "", names, days)
    elif len(names) > 1:
        raise ConfigError(f"a certificate of the role {role} has one name, not {len(names)}")
    else:
        files = authority.issue(Role(role), names[0], (), days)
    print("[tls]")
    print(f'certificate = "{files.certificate.resolve()}"')
    print(f'key = "{files.key.resolve()}"')
    print(f'ca = "{files.ca.resolve()}"')
    if role in LISTENERS:
        print(f'crl = "{authority.crl.resolve()}"')


@command.command(epilog=_EXAMPLES)
@_FOLDER
@click.argument("certificate", type=click.Path(path_type=Path))
def revoke(folder: Path, certificate: Path) -> None:
    """Add CERTIFICATE, a PEM file, to the revocation list crl.pem."""
    from infrasight_core.net.certificate_authority import CertificateAuthority

    authority = CertificateAuthority(folder)
    authority.revoke(certificate)
    print(f"revoked {certificate} in {authority.crl}")
