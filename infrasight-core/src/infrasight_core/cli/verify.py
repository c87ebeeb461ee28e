"""`infrasight verify`: does the store hold every event that the kernel saw?"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
from rich.console import Console
from rich.text import Text

from infrasight_core.cli import missing_fields
from infrasight_core.cli.format import shown, write_objects
from infrasight_core.cli.format_option import default_format, format_option
from infrasight_core.cli.server_options import server_options
from infrasight_core.cli.table import Column, fits, print_table
from infrasight_core.console.entry import EXIT_STATUSES, FAILED
from infrasight_core.console.streams import printable, report, utf8_argument

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = f"""\b
Examples:
  infrasight verify                        the last hour, every node and probe
  infrasight verify --since 1d --probe execve
  infrasight verify --node web-1 --format json | jq .difference
  infrasight query "SELECT * FROM accounting WHERE difference != 0"

\b
For every node and probe, to the event:
  seen = filtered + dropped + rejected + pending + stored + deleted + difference
  stored       rows that the probe's table holds now
  deleted      rows that the server deleted because the store's disk was too full
  pending      on the way from the kernel to the store
  dropped      never become rows; each has a reason, and so have rejected ones
  skipped      runs of the probe's program that the kernel skipped
  untraced     operations that no program traces
  difference   rows that no account explains: someone changed the table

\b
Missing fields: the share of rows with an unavailable field, and the most frequent such
fields. They are no failure. Fields about a container do not count once it is known.

\b
The status is 0 if nothing was dropped, rejected, skipped or untraced and the difference is 0,
and 1 otherwise.

{EXIT_STATUSES}"""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DROP_REASONS = ("block_full", "heap_full", "decode_failed", "outbox_full")
_PROBLEMS = {
    "block_full": "the kernel filled the slots of its blocks faster than the agent read them: "
    "give the blocks more memory (block_memory)",
    "heap_full": "the kernel filled the text of its blocks faster than the agent read it: "
    "give the blocks more memory (block_memory)",
    "decode_failed": "a plugin failed on them: the agent's log has the reason",
    "outbox_full": "the server was unavailable for longer than the agent's spool and memory "
    "lasted (spool.bytes, outbox_memory)",
    "rejected": "the server rejected them, or the agent's spool dropped them later: "
    "SELECT * FROM rejections",
    "untraced": "operations that no program traces: io_uring requests or calls of 32-bit ABIs",
    "skipped": "runs of the probe's program that the kernel skipped; how many events they would "
    "have recorded is unknown",
}
_COLUMNS = (
    "seen",
    "filtered",
    "dropped",
    "rejected",
    "pending",
    "stored",
    "deleted",
    "skipped",
    "untraced",
    "difference",
)
_ALWAYS_SHOWN = ("seen", "stored", "difference")
_SQL = """
SELECT
    node,
    probe,
    sum(r.seen) AS seen,
    sum(r.filtered) AS filtered,
    sum(r.block_full) AS block_full,
    sum(r.heap_full) AS heap_full,
    sum(r.decode_failed) AS decode_failed,
    sum(r.outbox_full) AS outbox_full,
    sum(r.rejected) AS rejected,
    sum(r.pending) AS pending,
    sum(r.stored) AS stored,
    sum(r.deleted) AS deleted,
    sum(r.entries_full) AS entries_full,
    sum(r.skipped) AS skipped,
    sum(r.untraced) AS untraced,
    sum(r.wrong) AS wrong,
    sum(r.difference) AS difference,
    countIf(NOT r.ended AND r.run != r.newest) AS broken_off
FROM
(
    SELECT
        node,
        probe,
        run,
        max(run) OVER (PARTITION BY node, probe) AS newest,
        max(a.ended) AS ended,
        sum(a.seen) AS seen,
        sum(a.filtered) AS filtered,
        sum(a.block_full) AS block_full,
        sum(a.heap_full) AS heap_full,
        sum(a.decode_failed) AS decode_failed,
        sum(a.outbox_full) AS outbox_full,
        sum(a.rejected) AS rejected,
        sum(a.stored) AS stored,
        sum(a.deleted) AS deleted,
        sum(a.entries_full) AS entries_full,
        sum(a.skipped) AS skipped,
        sum(a.untraced) AS untraced,
        sum(a.waiting + a.in_progress + if(a.settled, 0, a.difference)) AS pending,
        sumIf(abs(a.difference), a.settled) AS wrong,
        sumIf(a.difference, a.settled) AS difference
    FROM accounting AS a
    WHERE time >= now() - {seconds}{conditions}
    GROUP BY node, probe, run
) AS r
GROUP BY node, probe
ORDER BY node, probe
"""


@click.command("verify", epilog=EPILOG)
@click.option(
    "--since", default="1h", show_default=True, metavar="TIME", help="How far back: 30m, 6h, 7d ..."
)
@click.option(
    "--node", "nodes", multiple=True, metavar="NODE", help="Only this node. Can be repeated."
)
@click.option(
    "--probe", "probes", multiple=True, metavar="PROBE", help="Only this probe. Can be repeated."
)
@format_option()
@server_options
def command(
    since: str,
    nodes: tuple[str, ...],
    probes: tuple[str, ...],
    output_format: str | None,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Prove that the store holds every event that the kernel saw, or report the losses and why."""
    period = {
        "seconds": _seconds(since),
        "conditions": _is_one_of("node", nodes) + _is_one_of("probe", probes),
    }
    with connect() as client:
        accounts = _accounts(client.query(_SQL.format(**period)))
        answers = _decoded(client.query(missing_fields.SQL.format(**period)))
    missing_fields.add_missing_fields(accounts, answers)
    if (output_format or default_format()) == "json":
        write_objects({**account, "problems": list(_problems(account))} for account in accounts)
    elif accounts:
        _print(accounts)
    complete = bool(accounts)
    if not accounts:
        named = "".join(f" of {printable(name)}" for name in (*nodes, *probes))
        report(f"infrasight: no account{named} in the last {since}: has an agent sent anything?")
    for account in accounts:
        for problem in _problems(account):
            report(f"infrasight: {account['node']}, {account['probe']}: {problem}")
            complete = False
    if not complete:
        click.get_current_context().exit(FAILED)


def _accounts(pieces: Iterator[pa.Table]) -> list[dict[str, Any]]:
    """One row for each node and probe, without impossible numbers."""
    accounts = _decoded(pieces)
    for account in accounts:
        account["dropped"] = sum(account[reason] for reason in _DROP_REASONS)
        # The store holds rows that the accounts of the period do not know: rows of events seen
        # before it began, or rows that came before their account. They have been seen as well.
        unaccounted = max(0, -account["pending"])
        account["seen"] += unaccounted
        account["pending"] += unaccounted
    return accounts


def _decoded(pieces: Iterator[pa.Table]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.concat_tables(pieces).to_pylist()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, bytes):
                row[name] = shown(value)
    return rows


def _problems(account: Mapping[str, Any]) -> Iterator[str]:
    """Describes each loss of a node's probe in a line, with its remedy."""
    if account["wrong"]:
        few_or_many = "few" if account["difference"] > 0 else "many"
        yield (
            f"{account['wrong']:,} rows too {few_or_many} in the store: "
            "SELECT * FROM accounting WHERE difference != 0"
        )
    for reason, explanation in _PROBLEMS.items():
        if account[reason]:
            yield f"{account[reason]:,} {reason}: {explanation}"
    if account["broken_off"]:
        yield (
            f"{account['broken_off']:,} broken_off: runs that ended without a last account; "
            "the events that they had not sent are dropped"
        )


def _print(accounts: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table; a narrow terminal gets no column that is zero in every row."""
    console = Console()
    names = list(_COLUMNS)
    columns, rows = _table(accounts, names)
    zero = []
    if not fits(console.width, columns, rows):
        zero = [
            name
            for name in names
            if name not in _ALWAYS_SHOWN and not any(account[name] for account in accounts)
        ]
        columns, rows = _table(accounts, [name for name in names if name not in zero])
    print_table(console, columns, rows)
    if zero:
        console.print(Text(f"0 everywhere: {', '.join(zero)}", "dim"), soft_wrap=True)


def _table(
    accounts: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[list[Column], list[list[Text]]]:
    columns = [
        Column("node"),
        Column("probe"),
        *(Column(name, is_number=True) for name in names),
        Column("missing fields"),
    ]
    rows = []
    for account in accounts:
        texts = [
            printable(account["node"]),
            printable(account["probe"]),
            *(f"{account[name]:,}" for name in names),
            printable(missing_fields.summary(account)),
        ]
        rows.append([Text(text) for text in texts])
    return columns, rows


def _seconds(since: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", since)
    if match is None:
        raise click.BadParameter(
            f"{since!r} is not a time: write 90s, 30m, 6h, 7d or 2w", param_hint="--since"
        )
    return min(int(match[1]) * _UNITS[match[2]], int(time.time()))


def _is_one_of(column: str, names: Sequence[str]) -> str:
    """An SQL condition; empty without names."""
    if not names:
        return ""
    escaped = [name.replace("\\", "\\\\").replace("'", "\\'") for name in names]
    literals = ", ".join(f"'{utf8_argument(name)}'" for name in escaped)
    return f" AND {column} IN ({literals})"
