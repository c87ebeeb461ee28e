"""The `infrasight-operator` command."""

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
      on your machine, for testing without agents

\b
Every option is also a key in the --config file (tls.certificate for --tls-certificate)
and an environment variable (INFRASIGHT_OPERATOR_TLS__CERTIFICATE).
Options override variables, and variables override the file.

\b
Next:
  kubectl get infrasight,probepolicies,nodeprobes
  kubectl explain probepolicy.spec

SIGTERM and Ctrl-C stop the operator. Agents continue to record without it.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """InfraSight's Kubernetes operator: runs the agents, with the probes that policies select."""


@main.command(epilog=EPILOG)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="TOML or YAML file with any of these settings.",
)
@click.option(
    "--namespace",
    metavar="NAME",
    help="Namespace of the installation.  [the pod's, or KUBECONFIG's]",
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Address to listen on for agents.  [127.0.0.1:7446]"
)
@click.option(
    "--address", metavar="HOST:PORT", help="Address that agents connect to.  [same as --listen]"
)
@click.option(
    "--status-listen",
    metavar="HOST:PORT",
    help="Address that serves /metrics, /healthz and /readyz.  [127.0.0.1:7447]",
)
@click.option(
    "--tls-certificate",
    metavar="FILE",
    help="The operator's certificate, PEM. Mutual TLS needs this and the next two options.",
)
@click.option("--tls-key", metavar="FILE", help="Its private key, PEM.")
@click.option("--tls-ca", metavar="FILE", help="CA that signs the agents' certificates, PEM.")
@click.option(
    "--plaintext",
    is_flag=True,
    default=None,
    help="Listen without TLS, even on an address that other machines can reach.",
)
@click.option(
    "--stop-seconds",
    metavar="SECONDS",
    help="Time to wait for calls in progress when stopping.  [5]",
)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [info]")
def run(file: Path | None, **options: object) -> None:
    """Run the operator until SIGTERM or Ctrl-C.

    It configures the agents as the InfraSight and ProbePolicy objects of one namespace specify.
    """
    try:
        _run(file, options)
    except InfraSightError as error:
        print(f"infrasight-operator: {error}", file=sys.stderr)
        sys.exit(1)


def _run(file: Path | None, options: dict[str, object]) -> None:
    # gRPC prints bind errors that it also raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # These import gRPC and kopf, which --help does not need.
    from infrasight_operator.operator import run_operator
    from infrasight_operator.settings import OperatorSettings

    flags = {key.replace("tls_", "tls."): value for key, value in options.items()}
    settings = read_settings(
        OperatorSettings, file=file, env_prefix="INFRASIGHT_OPERATOR_", flags=flags
    )
    logs.configure(settings.log_level)
    asyncio.run(run_operator(settings))
