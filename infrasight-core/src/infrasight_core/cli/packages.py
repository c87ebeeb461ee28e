"""`infrasight packages`: installs a node's plugin packages before the agent starts."""

import importlib.util
from pathlib import Path

import click

from infrasight_core import logs
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.options import tls_files, tls_options
from infrasight_core.console.streams import printable, report
from infrasight_core.errors import ConfigError, InfraSightError

EPILOG = f"""\b
Examples:
  infrasight packages --operator operator.infrasight:7444 --node "$NODE" --target /packages
  PYTHONPATH=/packages infrasight agent --operator operator.infrasight:7444

\b
report.json in the target folder:
  {{"installed": [{{"name": "infrasight-probe-x", "version": "1.2"}}],
   "failures": [{{"name": "infrasight-probe-y", "reason": "..."}}]}}

\b
pip's own variables and settings files (PIP_INDEX_URL, pip.conf ...) have no effect.

{EXIT_STATUSES}
A failed installation is part of the report and no error of the command."""


@click.command("packages", epilog=EPILOG)
@click.option(
    "--operator",
    envvar="INFRASIGHT_AGENT_OPERATOR",
    show_envvar=True,
    metavar="HOST:PORT",
    required=True,
    help="The cluster's operator.",
)
@click.option(
    "--node",
    envvar="INFRASIGHT_AGENT_NODE",
    show_envvar=True,
    metavar="NAME",
    required=True,
    help="The node whose packages are installed.",
)
@click.option(
    "--target",
    envvar="INFRASIGHT_AGENT_PACKAGES",
    show_envvar=True,
    metavar="FOLDER",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to install into; it is emptied first.",
)
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(1, 86400),
    help="How long to wait for the operator, and as long again for pip.",
)
@click.option(
    "--index-url",
    envvar="INFRASIGHT_PACKAGES_INDEX_URL",
    show_envvar=True,
    metavar="URL",
    default="",
    help="The package index, the only one; pip's default if absent.",
)
@click.option(
    "--index-url-file",
    envvar="INFRASIGHT_PACKAGES_INDEX_URL_FILE",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the URL of the index, for a URL with a password.",
)
@click.option(
    "--index-ca",
    envvar="INFRASIGHT_PACKAGES_INDEX_CA",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The CA of the index's certificate.",
)
@click.option(
    "--allow-unhashed/--require-hashes",
    envvar="INFRASIGHT_PACKAGES_ALLOW_UNHASHED",
    show_envvar=True,
    default=False,
    show_default=True,
    help="Whether to install packages for which no hashes are given.",
)
@tls_options("the operator", variables="INFRASIGHT_AGENT_TLS__")
def command(
    operator: str,
    node: str,
    target: Path,
    timeout: float,
    index_url: str,
    index_url_file: Path | None,
    index_ca: Path | None,
    allow_unhashed: bool,
    tls_certificate: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    plaintext: bool | None,
) -> None:
    """Install the plugin packages that a cluster's operator assigns to a node.

    pip installs the packages one by one, as wheels from one index. A package needs hashes, and
    brings no dependencies: list them, too. Packages of this Python stay as they are and are not
    copied: a package that needs another version of one fails. An agent with the target folder in
    PYTHONPATH finds the installed plugins and reports report.json to the operator (the setting
    `packages`).
    """
    logs.configure("info")
    # Imported here, because gRPC takes a while to import and `--help` does not need it.
    from infrasight_core.net.operator_client import fetch_configuration
    from infrasight_core.net.peer import Peer
    from infrasight_core.packages.index import PackageIndex
    from infrasight_core.packages.install import Installation
    from infrasight_core.packages.report import PackageFailure, PackagesReport
    from infrasight_core.packages.target import prepare_target

    prepare_target(target)
    try:
        index = PackageIndex.read(index_url, index_url_file, index_ca)
        peer = Peer(operator, tls_files(tls_certificate, tls_key, tls_ca), bool(plaintext))
        packages = fetch_configuration(node, peer, timeout).packages
        if packages and importlib.util.find_spec("pip") is None:
            raise ConfigError(
                "packages cannot be installed: this Python has no pip; add it to the image"
            )
    except InfraSightError as error:
        result = PackagesReport(failures=(PackageFailure("packages", str(error)),))
    else:
        result = Installation(target, packages, timeout, index, allow_unhashed).run()
    result.write(target)
    for package in result.installed:
        click.echo(printable(f"installed {package.name} {package.version}"))
    for failure in result.failures:
        report(f"infrasight: {failure.name} is not installed: {failure.reason}")
