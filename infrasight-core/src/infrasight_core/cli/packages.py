"""`infrasight packages`: installs what a node's policies want beside the agent, before the agent starts."""

import importlib.util
from pathlib import Path

import click

from infrasight_core import logs
from infrasight_core.cli.server_options import tls_files
from infrasight_core.errors import ConfigError, InfraSightError

EPILOG = """\b
Examples:
  infrasight packages --operator operator.infrasight:7444 --node "$NODE" --target /packages
  PYTHONPATH=/packages infrasight agent --operator operator.infrasight:7444

\b
report.json in the folder:
  {"installed": [{"name": "infrasight-probe-x", "version": "1.2"}],
   "failures": [{"name": "infrasight-probe-y", "reason": "…"}]}
"""


@click.command(epilog=EPILOG)
@click.option(
    "--operator",
    envvar="INFRASIGHT_AGENT_OPERATOR",
    metavar="HOST:PORT",
    required=True,
    help="Whom to ask.",
)
@click.option("--node", envvar="INFRASIGHT_AGENT_NODE", required=True, help="Whose packages.")
@click.option(
    "--target",
    envvar="INFRASIGHT_AGENT_PACKAGES",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that they go into; it is emptied first.",
)
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1, 86400),
    help="How many seconds to wait for the operator, and as long again for pip.",
)
@click.option(
    "--tls-certificate",
    envvar="INFRASIGHT_AGENT_TLS__CERTIFICATE",
    type=click.Path(path_type=Path),
    metavar="FILE",
)
@click.option(
    "--tls-key", envvar="INFRASIGHT_AGENT_TLS__KEY", type=click.Path(path_type=Path), metavar="FILE"
)
@click.option(
    "--tls-ca", envvar="INFRASIGHT_AGENT_TLS__CA", type=click.Path(path_type=Path), metavar="FILE"
)
@click.option(
    "--plaintext",
    envvar="INFRASIGHT_AGENT_PLAINTEXT",
    is_flag=True,
    help="No TLS, even to another machine.",
)
def command(
    operator: str,
    node: str,
    target: Path,
    timeout: float,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    plaintext: bool,
) -> None:
    """Install the packages that a cluster's operator wants on this node.

    pip installs them, one by one, from where its own configuration says (PIP_INDEX_URL, PIP_CONFIG_FILE …). What this Python
    holds stays as it is and is not copied: a package that wants another version of it fails. A package with hashes brings
    nothing along: name what it needs, too. An agent with the folder in PYTHONPATH finds what was installed, and tells the
    operator what report.json in it says (the setting `packages`).

    Ends with status 0 once the report is written, whatever stands in it; each option is also read from the agent's variable
    (INFRASIGHT_AGENT_OPERATOR, INFRASIGHT_AGENT_NODE, INFRASIGHT_AGENT_PACKAGES, INFRASIGHT_AGENT_TLS__KEY …).
    """
    logs.configure("info")
    from infrasight_core.net.operator_client import configuration_of
    from infrasight_core.net.reconnecting_stream import Peer
    from infrasight_core.packages.install import Installation
    from infrasight_core.packages.report import PackageFailure, PackagesReport
    from infrasight_core.packages.target import emptied

    emptied(target)
    try:
        peer = Peer(operator, tls_files(tls_certificate, tls_key, tls_ca), plaintext)
        wanted = configuration_of(node, peer, timeout).packages
        if wanted and importlib.util.find_spec("pip") is None:
            raise ConfigError(
                "packages cannot be installed: this Python has no pip; build the image with it"
            )
    except InfraSightError as error:
        report = PackagesReport(failures=(PackageFailure("packages", str(error)),))
    else:
        report = Installation(target, wanted, timeout).run()
    report.write(target)
    for package in report.installed:
        click.echo(f"installed {package.name} {package.version}")
    for failure in report.failures:
        click.echo(f"failed {failure.name}: {failure.reason}", err=True)
