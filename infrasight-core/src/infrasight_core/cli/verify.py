"""`infrasight verify`: does the store hold every event that the kernel saw?"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from infrasight_core.cli import missing_fields
from infrasight_core.cli.format import printable
from infrasight_core.cli.server_options import server_options

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

EPILOG = """\b
Examples:
  infrasight verify                        the last hour, every node and probe
  infrasight verify --since 1d --probe execve
  infrasight verify --node web-1 --format json | jq .difference
  infrasight query "SELECT * FROM accounting WHERE difference != 0"

\b
For every node and probe: seen = filtered + dropped + rejected + on the way + stored, to the event, where stored is
counted in the probe's table now. Dropped, rejected and skipped events were lost, and counted; a difference means that
rows came or went behind InfraSight's back. The status is 0 if nothing is missing, else 1.

\b
Missing fields: the share of the period's rows that a column could not be filled for, as their quality says, and which
columns most often. They are no failure. What a row lacks of its container does not count once the container is known.
"""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LOST = {
    "block_full": "its slots were taken faster than they were read: give its blocks more memory (block_memory)",
    "heap_full": "its texts filled the blocks faster than they were read: give its blocks more memory (block_memory)",
    "decode_failed": "a plugin failed at them: the agent's log says why",
    "outbox_full": "the server was away for longer than the agent's memory lasted (outbox_memory)",
    "rejected": "the server rejected them: SELECT * FROM rejections",
    "untraced": "operations that no probe saw: requests of io_uring, or calls of the 32-bit ABIs, that could not be recorded",
    "skipped": "runs of its programs that the kernel skipped; what they would have seen is not known",
}
_SHOWN = (
    "seen",
    "filtered",
    "dropped",
    "rejected",
    "on_the_way",
    "stored",
    "skipped",
    "untraced",
    "difference",
)
_SQL = """
SELECT
    node, probe, sum(r.seen) AS seen, sum(r.filtered) AS filtered, sum(r.block_full) AS block_full,
    sum(r.heap_full) AS heap_full, sum(r.decode_failed) AS decode_failed, sum(r.outbox_full) AS outbox_full,
    sum(r.rejected) AS rejected, sum(r.on_the_way) AS on_the_way, sum(r.stored) AS stored, sum(r.entries_full) AS entries_full,
    sum(r.skipped) AS skipped, sum(r.untraced) AS untraced, sum(r.wrong) AS wrong, sum(r.difference) AS difference,
    countIf(NOT r.ended AND r.run != r.newest) AS broken_off
FROM (
    SELECT
        node, probe, run, max(run) OVER (PARTITION BY node, probe) AS newest, max(a.ended) AS ended,
        sum(a.seen) AS seen, sum(a.filtered) AS filtered,
        sum(a.block_full) AS block_full, sum(a.heap_full) AS heap_full, sum(a.decode_failed) AS decode_failed,
        sum(a.outbox_full) AS outbox_full, sum(a.rejected) AS rejected, sum(a.stored) AS stored,
        sum(a.entries_full) AS entries_full, sum(a.skipped) AS skipped, sum(a.untraced) AS untraced,
        sum(a.waiting + a.in_progress + if(a.settled, 0, a.difference)) AS on_the_way,
        sumIf(abs(a.difference), a.settled) AS wrong, sumIf(a.difference, a.settled) AS difference
    FROM accounting AS a
    WHERE time >= now() - {seconds}{conditions}
    GROUP BY node, probe, run
) AS r
GROUP BY node, probe
ORDER BY node, probe
"""


@click.command("verify", epilog=EPILOG)
@click.option(
    "--since", default="1h", show_default=True, metavar="TIME", help="How far back: 30m, 6h, 7d …"
)
@click.option(
    "--node", "nodes", multiple=True, metavar="NODE", help="Only this one; may be repeated."
)
@click.option(
    "--probe", "probes", multiple=True, metavar="PROBE", help="Only this one; may be repeated."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    help="[table on a terminal, json in a pipe]",
)
@server_options
def command(
    since: str,
    nodes: tuple[str, ...],
    probes: tuple[str, ...],
    form: str | None,
    connect: Callable[[], "ServerClient"],
    server: str | None,
) -> None:
    """Prove that the store holds every event that the kernel saw, or say what is missing and why."""
    conditions = "".join(
        _one_of(column, names) for column, names in (("node", nodes), ("probe", probes))
    )
    with connect() as client:
        period = {"seconds": _seconds(since), "conditions": conditions}
        rows = _rows(client.query(_SQL.format(**period)))
        missing_fields.add_missing_fields(
            rows, _decoded(client.query(missing_fields.SQL.format(**period)))
        )
    if (form or ("table" if sys.stdout.isatty() else "json")) == "json":
        for row in rows:
            click.echo(json.dumps(row | {"missing": list(_missing(row))}))
    else:
        _print(rows)
    if not rows:
        click.echo(
            f"infrasight: no account of the last {since}: has an agent sent anything?", err=True
        )
    for row in rows:
        for said in _missing(row):
            click.echo(
                f"infrasight: {printable(row['node'])}, {printable(row['probe'])}: {said}", err=True
            )
    if not rows or any(True for row in rows for _ in _missing(row)):
        sys.exit(1)


def _rows(pieces: Iterator[pa.Table]) -> list[dict[str, Any]]:
    rows = _decoded(pieces)
    for row in rows:
        row["dropped"] = sum(
            row[reason] for reason in ("block_full", "heap_full", "decode_failed", "outbox_full")
        )
    return rows


def _decoded(pieces: Iterator[pa.Table]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.concat_tables(pieces).to_pylist()
    for row in rows:
        row |= {
            name: value.decode("utf-8", "backslashreplace")
            for name, value in row.items()
            if isinstance(value, bytes)
        }
    return rows


def _missing(row: Mapping[str, Any]) -> Iterator[str]:
    """What is missing of a node's probe, and what to do, a line each."""
    if row["wrong"]:
        few = "few" if row["difference"] > 0 else "many"
        yield f"{row['wrong']:,} rows too {few} in the store: SELECT * FROM accounting WHERE difference != 0"
    for reason, why in _LOST.items():
        if row[reason]:
            yield f"{row[reason]:,} {reason}: {why}"
    if row["broken_off"]:
        yield f"{row['broken_off']:,} broken_off: runs that ended without a last account; what they had not yet sent is lost"


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("node", "probe", *_SHOWN):
        table.add_column(
            name.replace("_", " "), justify="left" if name in ("node", "probe") else "right"
        )
    table.add_column("missing fields")
    for row in rows:
        numbers = (f"{row[name]:,}" for name in _SHOWN)
        table.add_row(
            printable(row["node"]),
            printable(row["probe"]),
            *numbers,
            printable(missing_fields.in_short(row)),
        )
    Console().print(table)


def _seconds(since: str) -> int:
    if not (match := re.fullmatch(r"(\d{1,6})([smhdw])", since)):
        raise click.BadParameter(
            f"{since!r} is not a time: write 90s, 30m, 6h, 7d or 2w", param_hint="--since"
        )
    return int(match[1]) * _UNITS[match[2]]


def _one_of(column: str, names: Sequence[str]) -> str:
    quoted = ", ".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in names)
    return f" AND {column} IN ({quoted})" if names else ""
