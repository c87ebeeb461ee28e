"""The command line of `infrasight-server`."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import evolve
from infrasight_core import logs
from infrasight_core.console import privileges
from infrasight_core.console.entry import EXIT_STATUSES
from infrasight_core.console.options import (
    config_option,
    listener_tls_options,
    log_level_option,
    settings_flags,
)
from infrasight_core.console.seccomp import DANGEROUS_CALLS, RECORDING_CALLS
from infrasight_core.net.address import DEFAULT_SERVER, Address
from infrasight_core.settings.private_files import UMASK
from infrasight_core.settings.reader import read_settings

from infrasight_server import __version__

if TYPE_CHECKING:
    from infrasight_server.settings import ServerSettings

EPILOG = f"""\b
Examples:
  infrasight-server --data ./data
      everything on this machine, with the store embedded in ./data/store
  infrasight-server --store http://infrasight@clickhouse:8123/
      a ClickHouse server; its password in INFRASIGHT_SERVER_STORE_PASSWORD
  infrasight-server --listen 0.0.0.0:7443 \\
      --tls-certificate server.pem --tls-key server.key --tls-ca ca.pem
      agents on other machines; `infrasight certs` makes certificates for trying out
  infrasight-server --config server.toml

\b
Environment: every option is also a key of the settings file (tls.certificate for
--tls-certificate) and a variable (INFRASIGHT_SERVER_TLS__CERTIFICATE). Options take
precedence over variables, and variables over the file.

\b
Then, on this machine:
  sudo infrasight agent
  infrasight query "SELECT time, node, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5"

\b
SIGTERM and Ctrl-C stop the server once every acknowledged event is stored.

{EXIT_STATUSES}"""


@click.command(
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@config_option
@click.option(
    "--listen", metavar="ADDRESS", help=f"Where agents and readers connect.  [{DEFAULT_SERVER}]"
)
@click.option(
    "--socket-group",
    metavar="GROUP",
    help="The group that may connect to the Unix socket and read.  [infrasight]",
)
@click.option(
    "--agent-user",
    "agent_users",
    metavar="USER",
    multiple=True,
    help="A member of that group who may also write as an agent. Can be repeated.  [root]",
)
@click.option(
    "--tokens",
    metavar="FILE",
    help="The tokens of agents and readers, for HOST:PORT on loopback without TLS.",
)
@click.option(
    "--status-listen", metavar="HOST:PORT", help="/metrics, /healthz, /readyz.  [127.0.0.1:7444]"
)
@click.option("--data", metavar="FOLDER", help="The data directory.  [/var/lib/infrasight]")
@click.option(
    "--store",
    metavar="STORE",
    help="`embedded`, or a ClickHouse server: http[s]://user@host:port/.  [embedded]",
)
@click.option(
    "--store-password-file", metavar="FILE", help="A file with the ClickHouse user's password."
)
@click.option(
    "--query-user",
    metavar="USER",
    help="The ClickHouse user who runs queries; needs SELECT alone.  [the user of the store]",
)
@click.option(
    "--query-password-file", metavar="FILE", help="A file with the password of the query user."
)
@click.option(
    "--require-store-confinement",
    is_flag=True,
    default=None,
    help="Do not start if the kernel cannot confine the embedded store.",
)
@click.option("--database", metavar="NAME", help="The database of all tables.  [infrasight]")
@listener_tls_options("agents and readers")
@click.option(
    "--probe",
    "probes",
    metavar="PROBE",
    multiple=True,
    help="Store only this probe's events. Can be repeated.  [all installed]",
)
@click.option(
    "--linger-seconds",
    metavar="SECONDS",
    help="The least time between two inserts into a table.  [0.5]",
)
@click.option(
    "--max-insert-rows",
    metavar="ROWS",
    help="Insert at once when this many rows wait.  [100000]",
)
@click.option(
    "--max-batch-bytes", metavar="BYTES", help="Reject batches larger than this.  [33554432]"
)
@click.option(
    "--max-decoded-bytes",
    metavar="BYTES",
    help="Reject batches larger than this after decompression.  [134217728]",
)
@click.option(
    "--max-age-days", metavar="DAYS", help="Reject events that arrive later than this.  [366]"
)
@click.option("--max-streams", metavar="NUMBER", help="The most agents at once.  [2000]")
@click.option(
    "--max-pending-bytes",
    metavar="BYTES",
    help="Accept no batches while this much waits for the store.  [268435456]",
)
@click.option("--ttl-days", metavar="DAYS", help="Delete rows older than this.  [never]")
@click.option(
    "--disk-limit",
    metavar="SHARE",
    help="Delete the oldest days while more of the store's disk is used, such as 0.85.  [never]",
)
@click.option("--query-seconds", metavar="SECONDS", help="The time limit of a query.  [60]")
@click.option("--query-slots", metavar="COUNT", help="How many queries run at a time.  [4]")
@click.option("--query-slots-per-peer", metavar="COUNT", help="How many of one reader.  [2]")
@click.option(
    "--watchers-per-peer", metavar="COUNT", help="Streams of stored events of one reader.  [8]"
)
@click.option("--query-bytes", metavar="BYTES", help="The size limit of an answer.  [1073741824]")
@click.option(
    "--query-memory",
    metavar="BYTES",
    help="The memory that all queries may use in the store.  [half of the store's]",
)
@click.option(
    "--stop-seconds", metavar="SECONDS", help="How long to wait for the store at the end.  [10]"
)
@click.option(
    "--keep-privileges",
    is_flag=True,
    default=None,
    help="Drop no capabilities, and deny no system calls.",
)
@log_level_option
@click.version_option(__version__, message="%(prog)s %(version)s")
def command(file: Path | None, **options: object) -> None:
    """Receive events from InfraSight agents, store them in ClickHouse, and answer queries.

    Without options it listens on this machine only and stores events in an embedded ClickHouse.
    """
    from infrasight_server.settings import ServerSettings

    server_settings = read_settings(
        ServerSettings, file=file, env_prefix="INFRASIGHT_SERVER_", flags=settings_flags(options)
    )
    logs.configure(server_settings.log_level)
    os.umask(UMASK)
    restriction = None if server_settings.keep_privileges else _restrict(server_settings, file)
    # Imported here: they take seconds, and start threads with the privileges of that moment.
    from infrasight_server.server import Server, serve

    def started(server: Server) -> None:
        if restriction is not None:
            restriction.log()

    asyncio.run(serve(server_settings, started))


def _restrict(settings: "ServerSettings", file: Path | None) -> privileges.Restriction:
    """Drops the privileges that the server does not need."""
    privileges.join_group(settings.socket_group)  # to give the socket to it
    paths = [*privileges.program_paths(), *privileges.paths_of(evolve(settings, data=Path("/")))]
    if file is not None:
        paths.append(file)
    keep = privileges.for_reading(paths)
    for address in (settings.listen, settings.status_listen):
        keep |= privileges.for_port(Address.parse(address).port)
    return privileges.restrict(keep, (*DANGEROUS_CALLS, *RECORDING_CALLS))
