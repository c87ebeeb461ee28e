"""The command line of `infrasight-operator`."""

import asyncio
from pathlib import Path

import click
from infrasight_core import logs
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.options import (
    config_option,
    listener_tls_options,
    log_level_option,
    settings_flags,
)
from infrasight_core.settings.reader import read_settings

from infrasight_operator import __version__

EPILOG = f"""\b
Examples:
  infrasight-operator run --listen 0.0.0.0:7446 \\
      --address infrasight-operator.infrasight.svc:7446 \\
      --tls-certificate tls.crt --tls-key tls.key --tls-ca ca.crt
      in a pod, with the rights of its service account
  KUBECONFIG=~/.kube/config infrasight-operator run --namespace infrasight
      on your machine, for testing without agents

\b
Environment: every option is also a key of the settings file (tls.certificate for
--tls-certificate) and a variable (INFRASIGHT_OPERATOR_TLS__CERTIFICATE). Options take
precedence over variables, and variables over the file.

\b
Next:
  kubectl get infrasight,probepolicies,nodeprobes
  kubectl explain probepolicy.spec

\b
SIGTERM and Ctrl-C stop the operator. Agents continue to record without it.

{EXIT_STATUSES}"""


@click.group(
    epilog=EXIT_STATUSES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def operator() -> None:
    """InfraSight's Kubernetes operator: runs the agents, with the probes that policies select."""


@operator.command(epilog=EPILOG)
@config_option
@click.option(
    "--namespace",
    metavar="NAME",
    help="Namespace of the installation.  [the pod's, or KUBECONFIG's]",
)
@click.option("--listen", metavar="HOST:PORT", help="Where agents connect.  [127.0.0.1:7446]")
@click.option(
    "--address", metavar="HOST:PORT", help="Address that agents connect to.  [same as --listen]"
)
@click.option(
    "--status-listen", metavar="HOST:PORT", help="/metrics, /healthz, /readyz.  [127.0.0.1:7447]"
)
@listener_tls_options("agents")
@click.option(
    "--stop-seconds",
    metavar="SECONDS",
    help="How long to wait at the end for calls in progress.  [5]",
)
@log_level_option
def run(file: Path | None, **options: object) -> None:
    """Run the operator until SIGTERM or Ctrl-C.

    It configures the agents as the InfraSight and ProbePolicy objects of one namespace specify.
    """
    # Imported here, because kopf and gRPC take a while to import and `--help` needs neither.
    from infrasight_operator.operator import run_operator
    from infrasight_operator.settings import OperatorSettings

    settings = read_settings(
        OperatorSettings,
        file=file,
        env_prefix="INFRASIGHT_OPERATOR_",
        flags=settings_flags(options),
    )
    logs.configure(settings.log_level)
    asyncio.run(run_operator(settings))
