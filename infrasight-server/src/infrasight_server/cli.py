"""The command `infrasight-server`."""

import asyncio
import os
import sys
from pathlib import Path

import click
from infrasight_core import logs
from infrasight_core.errors import InfraSightError
from infrasight_core.settings.reader import read_settings

from infrasight_server import __version__

EPILOG = """\b
Examples:
  infrasight-server --data ./data
      everything on this machine, the store embedded in ./data/store
  infrasight-server --store http://infrasight@clickhouse:8123/
      a ClickHouse server; its password in INFRASIGHT_SERVER_STORE_PASSWORD
  infrasight-server --listen 0.0.0.0:7443 \\
      --tls-certificate server.pem --tls-key server.key --tls-ca ca.pem
      agents on other machines, which show certificates of the same CA
  infrasight-server --config server.toml
      every option is also a key there (tls.certificate for --tls-certificate),
      and a variable (INFRASIGHT_SERVER_TLS__CERTIFICATE); options win over
      variables, variables over the file

\b
Then, on this machine or another:
  infrasight agent --server HOST:7443
  infrasight query "SELECT time, node, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5"

It stops on SIGTERM and Ctrl-C, after everything that it acknowledged is stored.
"""


@click.command(
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML or YAML file with any of these settings.",
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where agents and readers connect.  [127.0.0.1:7443]"
)
@click.option(
    "--status-listen", metavar="HOST:PORT", help="/metrics, /healthz and /readyz.  [127.0.0.1:7444]"
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
@click.option("--database", metavar="NAME", help="The database of all tables.  [infrasight]")
@click.option(
    "--tls-certificate",
    metavar="FILE",
    help="The server's certificate, PEM; with the next two: mutual TLS.",
)
@click.option("--tls-key", metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--tls-ca",
    metavar="FILE",
    help="What the certificates of agents and readers must be signed by, PEM.",
)
@click.option(
    "--plaintext",
    is_flag=True,
    default=None,
    help="No TLS, even on an address that others can reach.",
)
@click.option(
    "--probe",
    "probes",
    metavar="NAME",
    multiple=True,
    help="Only this probe; may be repeated.  [all installed]",
)
@click.option(
    "--linger-seconds", metavar="SECONDS", help="The least time between a table's inserts.  [0.5]"
)
@click.option(
    "--max-insert-rows",
    metavar="ROWS",
    help="With as many rows an insert begins at once.  [100000]",
)
@click.option(
    "--max-batch-bytes", metavar="BYTES", help="The longest batch that is taken.  [33554432]"
)
@click.option(
    "--max-pending-bytes",
    metavar="BYTES",
    help="What waits for the store at most; then agents wait.  [268435456]",
)
@click.option("--ttl-days", metavar="DAYS", help="Delete rows that are older.  [never]")
@click.option("--query-seconds", metavar="SECONDS", help="How long one query may run.  [60]")
@click.option("--query-bytes", metavar="BYTES", help="How large its answer may be.  [1073741824]")
@click.option(
    "--stop-seconds", metavar="SECONDS", help="How long to wait for the store when stopping.  [10]"
)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [info]")
@click.version_option(__version__, message="%(prog)s %(version)s")
def main(file: Path | None, **options: object) -> None:
    """Receive events from InfraSight agents, store them in ClickHouse, and answer queries.

    Without any option it listens on this machine only and keeps its own embedded ClickHouse.
    """
    try:
        _run(file, options)
    except InfraSightError as error:
        print(f"infrasight-server: {error}", file=sys.stderr)
        sys.exit(1)


def _run(file: Path | None, options: dict[str, object]) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC prints about a port it also raises
    from infrasight_server.server import serve
    from infrasight_server.settings import (
        ServerSettings,  # with it come chDB and pyarrow, which --help need not wait for
    )

    flags = {key.replace("tls_", "tls."): value for key, value in options.items()}
    config = read_settings(ServerSettings, file=file, env_prefix="INFRASIGHT_SERVER_", flags=flags)
    logs.configure(config.log_level)
    asyncio.run(serve(config))
