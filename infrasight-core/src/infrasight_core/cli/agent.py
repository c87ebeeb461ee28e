"""`infrasight agent`: the process on a node."""

import asyncio
import os
from pathlib import Path

import click

from infrasight_core import logs
from infrasight_core.agent.settings import SettingsSource
from infrasight_core.cli.agent_capabilities import needed_capabilities
from infrasight_core.cli.process_heap import share_one_heap
from infrasight_core.console import privileges
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.options import (
    config_option,
    local_server_options,
    log_level_option,
    settings_flags,
    tls_options,
)
from infrasight_core.console.seccomp import DANGEROUS_CALLS
from infrasight_core.net.address import DEFAULT_SERVER
from infrasight_core.settings.private_files import UMASK

EPILOG = f"""\b
Examples:
  sudo infrasight agent                              every installed probe, to this machine
  sudo infrasight agent --probe execve --probe open
  sudo infrasight agent --server events.example:7443 \\
      --tls-certificate agent.pem --tls-key agent.key --tls-ca ca.pem
  sudo infrasight agent --config agent.toml

\b
A settings file:
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

\b
Environment: every setting is also a variable, with `__` for the dot of a table:
  INFRASIGHT_AGENT_SERVER=events.example:7443
  INFRASIGHT_AGENT_TLS__KEY=agent.key
Options take precedence over variables, and variables over the file.

{EXIT_STATUSES}"""


@click.command("agent", epilog=EPILOG)
@config_option
@click.option(
    "--server",
    metavar="ADDRESS",
    help=f"Where to send events; several with commas.  [{DEFAULT_SERVER}]",
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="PROBE",
    help="Run this probe. Can be repeated.  [all installed]",
)
@click.option(
    "--disable", multiple=True, metavar="PLUGIN", help="Do not load this plugin. Can be repeated."
)
@click.option(
    "--operator",
    metavar="HOST:PORT",
    help="The cluster's operator, which decides what to record.  [none]",
)
@click.option(
    "--state",
    metavar="FOLDER",
    help="Where the operator's configuration is saved.  [/var/lib/infrasight-agent]",
)
@click.option(
    "--program-cache",
    metavar="FOLDER",
    help="Where compiled probes are stored; empty for nowhere.  [/var/cache/infrasight]",
)
@click.option(
    "--spool",
    "spool_folder",
    metavar="FOLDER",
    help="Where batches wait for the server; `none` for in memory alone.  "
    "[/var/lib/infrasight-agent/spool]",
)
@click.option("--node", metavar="NAME", help="The node name of the events.  [the host name]")
@tls_options("the server and the operator")
@local_server_options()
@click.option(
    "--status-listen", metavar="HOST:PORT", help="/metrics, /healthz, /readyz.  [127.0.0.1:7445]"
)
@log_level_option
def command(file: Path | None, **options: object) -> None:
    """Record this machine's events and stream them to a server; needs root.

    The server may be unavailable: the agent goes on recording, and sends when it can. SIGTERM and
    Ctrl-C stop the agent once the server has acknowledged what it has recorded.

    On SIGHUP, or when the file changes, the agent reads its settings again. New probes, disabled
    plugins, options and filters take effect at once, each probe independently; other settings
    take effect at the next start. If the file has a mistake, nothing changes.

    With an operator, the operator's configuration selects the probes and takes precedence over
    the options and filters given here. Until the first configuration arrives, nothing is recorded;
    later starts begin with the last one. The agent reports to the operator what runs, and why the
    rest does not.

    Filters are evaluated in the kernel. An event is recorded if it matches every include filter
    that is set (pid, uid, comm, cgroup, path) and no exclude filter. The agent's own events are
    never recorded.
    """
    source = SettingsSource(file, settings_flags(options))
    settings = source.read()
    os.umask(UMASK)
    share_one_heap()
    logs.configure(settings.log_level)
    restriction = None
    if not settings.keep_privileges:
        privileges.join_group()
        needed = needed_capabilities(settings, source.path())
        restriction = privileges.restrict(needed, DANGEROUS_CALLS)
    # Imported here: it imports NumPy and pyarrow, which start threads with the privileges of now.
    from infrasight_core.agent.agent import Agent

    agent = Agent(settings, source)
    asyncio.run(agent.run(restriction.log if restriction else lambda: None))
