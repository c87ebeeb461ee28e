"""The command `infrasight-operator`."""

import asyncio
import os
import sys
from pathlib import Path

import click
from infrasight_core import logs
from infrasight_core.errors import InfraSightError
from infrasight_core.settings.reader import read_settings

from infrasight_operator import __version__

EPILOG = """\b
Examples:
  infrasight-operator run --listen 0.0.0.0:7446 --address infrasight-operator.infrasight.svc:7446 \\
      --tls-certificate tls.crt --tls-key tls.key --tls-ca ca.crt
      in a pod, with the rights of its service account
  KUBECONFIG=~/.kube/config infrasight-operator run --namespace infrasight
      on this machine, for a cluster whose agents are elsewhere or not there

\b
Every option is also a key of the file that --config names (tls.certificate for
--tls-certificate), and a variable (INFRASIGHT_OPERATOR_TLS__CERTIFICATE);
options win over variables, variables over the file.

\b
Then:
  kubectl get infrasight,probepolicies,nodeprobes
  kubectl explain probepolicy.spec

It stops on SIGTERM and Ctrl-C; agents go on recording without it.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """InfraSight's Kubernetes operator: decides which probes run on which nodes, and keeps the agents there."""


@main.command(epilog=EPILOG)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML or YAML file with any of these settings.",
)
@click.option(
    "--namespace",
    metavar="NAME",
    help="The installation's namespace.  [the pod's own, or KUBECONFIG's]",
)
@click.option("--listen", metavar="HOST:PORT", help="Where agents connect.  [127.0.0.1:7446]")
@click.option(
    "--address", metavar="HOST:PORT", help="What agents are told to connect to.  [the same]"
)
@click.option(
    "--status-listen", metavar="HOST:PORT", help="/metrics, /healthz and /readyz.  [127.0.0.1:7447]"
)
@click.option(
    "--tls-certificate",
    metavar="FILE",
    help="The operator's certificate, PEM; with the next two: mutual TLS.",
)
@click.option("--tls-key", metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--tls-ca", metavar="FILE", help="What the agents' certificates must be signed by, PEM."
)
@click.option(
    "--plaintext",
    is_flag=True,
    default=None,
    help="No TLS, even on an address that others can reach.",
)
@click.option(
    "--stop-seconds",
    metavar="SECONDS",
    help="How long to wait at the end for what is under way.  [5]",
)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [info]")
def run(file: Path | None, **options: object) -> None:
    """Keep the cluster as its InfraSight and ProbePolicy objects say, until a signal comes."""
    try:
        _run(file, options)
    except InfraSightError as error:
        print(f"infrasight-operator: {error}", file=sys.stderr)
        sys.exit(1)


def _run(file: Path | None, options: dict[str, object]) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC prints about a port it also raises
    from infrasight_operator.operator import operate
    from infrasight_operator.settings import (
        OperatorSettings,  # with these come gRPC and kopf, which --help need not wait for
    )

    flags = {key.replace("tls_", "tls."): value for key, value in options.items()}
    config = read_settings(
        OperatorSettings, file=file, env_prefix="INFRASIGHT_OPERATOR_", flags=flags
    )
    logs.configure(config.log_level)
    asyncio.run(operate(config))
