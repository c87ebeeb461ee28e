"""`infrasight agent`: the process on a node."""

import asyncio
from pathlib import Path

import click

from infrasight_core import logs
from infrasight_core.agent.agent import Agent
from infrasight_core.agent.reload import Source


@click.command()
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="A TOML or YAML file of settings."
)
@click.option(
    "--server", metavar="HOST:PORT", help="Where to send the events; 127.0.0.1:7443 by default."
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="PROBE",
    help="Run this one; may be repeated. All installed ones by default.",
)
@click.option(
    "--disable", multiple=True, metavar="PLUGIN", help="Do not load this plugin; may be repeated."
)
@click.option(
    "--operator",
    metavar="HOST:PORT",
    help="A cluster's operator, which says what to record; none by default.",
)
@click.option(
    "--state",
    metavar="FOLDER",
    help="Where the operator's configuration is kept; /var/lib/infrasight by default.",
)
@click.option("--node", help="The name that the events carry; the host's by default.")
@click.option("--tls-certificate", metavar="FILE", help="Our certificate, PEM.")
@click.option("--tls-key", metavar="FILE", help="Its key, PEM.")
@click.option(
    "--tls-ca", metavar="FILE", help="What the server's certificate must be signed by, PEM."
)
@click.option(
    "--plaintext",
    is_flag=True,
    default=None,
    help="Send over the network without TLS all the same.",
)
@click.option(
    "--status-listen",
    metavar="HOST:PORT",
    help="/metrics, /healthz, /readyz; 127.0.0.1:7445 by default.",
)
@click.option("--log-level", help="debug, info, warning or error; info by default.")
def command(file: Path | None, **options: object) -> None:
    """Record this machine's events and stream them to a server.

    Settings come from the file, then from the environment (INFRASIGHT_AGENT_SERVER, INFRASIGHT_AGENT_TLS__KEY …), then from
    the options; the later win. The server may be away: the agent goes on and sends when it is back. SIGTERM ends it, once
    what it has recorded is acknowledged.

    SIGHUP, or a change of the file, has the settings read again while it runs: probes, disable, options and filters come into
    force at once, each probe by itself; the others at the next start. A file with a mistake leaves everything as it was.

    With an operator, its configuration names the probes, and comes over options and filters given here; it comes into force at
    once, each probe by itself, and one that cannot run leaves the others running. Until the first has come nothing is recorded;
    later starts begin with the last one. The operator is told what runs, and why the rest does not.

    Filters decide in the kernel what is recorded: what fits every include that is set (pid, uid, comm, cgroup, path) and no
    exclude. The agent's own work is never recorded.

    \b
    A file:
      server = "events.example:7443"
      probes = ["execve"]
      [filters.all]
      exclude_comm = ["cron"]
      [filters.execve]
      include_uid = [0, 1000]
      exclude_path = ["/usr/lib/"]
      [tls]
      certificate = "agent.pem"
      key = "agent.key"
      ca = "ca.pem"
    """
    flags = {key.replace("tls_", "tls."): value for key, value in options.items()}
    source = Source(file, flags)
    settings = source.read()
    logs.configure(settings.log_level)
    asyncio.run(Agent(settings, source).run())
