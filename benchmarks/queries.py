"""The documented queries on many rows: how long each takes, and how much it reads.

usage: queries.py [MILLIONS [RUNS]]      (5 million rows and 7 runs by default)

The rows are made inside a ClickHouse server (`rows/*.sql`), in the tables that the server's
migration creates: 50 nodes with 3.3 events a second each, so that more rows are a longer time, and
100 million are a week. Each round runs every query of docs/queries.md once, with the limits of a
reader's query, and measures the time until the answer has arrived and the CPU of the store. 100
million rows take 6 minutes to make, and 3 GB of disk below /var/tmp while the benchmark runs. The
last line is the same as JSON.
"""

import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import numpy as np
from attrs import asdict, frozen
from infrasight_core.errors import QueryError
from infrasight_core.plugin.ddl import define_table
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.schema import EventSchema
from infrasight_server.store.accounts import migrate_accounts
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.compared_tracers import PROBES
from infrasight_testbed.documented_queries import DocumentedQuery, queries_of
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.system import until
from rich.console import Console
from rich.table import Table

HERE: Final = Path(__file__).parent
PAGE: Final = HERE.parent / "docs/queries.md"
SHARES: Final = {"open": 0.7, "execve": 0.1, "connect": 0.09, "accept": 0.09, "chmod": 0.02}
"""Of all rows; each execution is a process."""
NODES: Final = 50
ROWS_PER_SECOND: Final = 165
ROWS_OF_AN_INSERT: Final = 1_000_000
GOAL_SECONDS: Final = 1.0
MERGE_SECONDS: Final = 300.0


@frozen
class Result:
    """One query.

    Attributes:
        purpose: What it is for.
        median: The time in seconds.
        p95: The 95th percentile of the times.
        cpu: The CPU of the store in seconds, median.
        answer_rows: The rows of its answer.
        rows_read: The rows that the store reads for it.
        bytes_read: The bytes of their columns, uncompressed.
        error: Why it fails; "" if it does not.
    """

    purpose: str
    median: float = 0.0
    p95: float = 0.0
    cpu: float = 0.0
    answer_rows: int = 0
    rows_read: int = 0
    bytes_read: int = 0
    error: str = ""


def template(name: str, **values: object) -> str:
    """Returns an SQL file with its placeholders replaced."""
    text = (HERE / f"rows/{name}.sql").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", str(value))
    return text


def generate(store: Store, schemas: Mapping[str, EventSchema], rows: int) -> None:
    """Fills the tables with rows whose last is of now."""
    span = int(rows / ROWS_PER_SECOND * 1e9)
    start = time.time_ns() - span
    processes = int(rows * SHARES["execve"])
    for probe, share in SHARES.items():
        count = int(rows * share)
        columns = [each.name for each in define_table(probe, schemas[probe]).columns if each.stored]
        names = ", ".join(columns)
        for first in range(0, count, ROWS_OF_AN_INSERT):
            header = template(
                "header",
                probe=probe,
                nodes=NODES,
                processes=processes,
                process_step=span // processes,
                rows=count,
                step=span // count,
                start=start,
                first=first,
                count=min(ROWS_OF_AN_INSERT, count - first),
            )
            select = template(probe, header=header)
            store.command(f"INSERT INTO {probe}_events ({names}) SELECT {names} FROM ({select})")
            print(f"\r{probe}: {first:,} of {count:,} rows ", end="", file=sys.stderr)
        store.command(template("accounts", probe=probe))
    store.command(template("containers"))


@contextmanager
def filled_store(rows: int) -> Iterator[tuple[Store, ClickHouseServer]]:
    """Runs a ClickHouse server with so many rows; yields its store, too."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        server = ClickHouseServer(Path(folder)).start()
        store = Store.at(server.url, "infrasight")
        try:
            schemas = PluginManager.discover(PROBES).schemas()
            migrate(store, schemas, None)
            migrate_accounts(store, None)
            generate(store, schemas, rows)
            until(lambda: not merges(store), "all parts are merged", MERGE_SECONDS)
            yield store, server
        finally:
            store.close()
            server.kill()


def merges(store: Store) -> int:
    """Returns how many merges run."""
    [row] = rows_of(store, "SELECT count() AS merges FROM system.merges")
    return int(row["merges"])


def rows_of(store: Store, sql: str) -> list[dict[str, Any]]:
    """Returns the rows of a query."""
    return [row for piece in store.query(sql) for row in piece.to_pylist()]


def with_a_key(store: Store, query: DocumentedQuery) -> str:
    """Returns a query's text, with the key of a process that has descendants."""
    [row] = rows_of(
        store,
        "SELECT parent_process_key AS key FROM execve_events WHERE parent_comm = 'make' "
        "ORDER BY time DESC LIMIT 1 OFFSET 10000",
    )
    return re.sub(r"process_key = \d+", f"process_key = {row['key']}", query.sql)


def seconds_of(store: Store, pid: int, sql: str) -> tuple[float, float]:
    """Returns how long a query takes until all of its answer has arrived, and the store's CPU."""
    cpu_before = cpu_seconds(pid)
    began = time.monotonic()
    rows_of(store, sql)
    return time.monotonic() - began, cpu_seconds(pid) - cpu_before


def measured(store: Store, server: ClickHouseServer, runs: int) -> list[Result]:
    """Runs each query several times in turn."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=urlsplit(server.url).port, database="infrasight"
    )
    settings = {**store.default_limits.settings(), "wait_end_of_query": 1}
    queries = queries_of(PAGE)
    texts = [with_a_key(store, query) for query in queries]
    times: dict[int, list[tuple[float, float]]] = defaultdict(list)
    errors: dict[int, str] = {}
    for _ in range(runs):
        for number, text in enumerate(texts):
            if number in errors:
                continue
            try:
                times[number].append(seconds_of(store, server.pid, text))
            except QueryError as error:
                errors[number] = str(error)
            print(f"query {number + 1}: {times[number][-1:]}", file=sys.stderr)
    results = []
    for number, query in enumerate(queries):
        if number in errors:
            results.append(Result(query.purpose, error=errors[number]))
            continue
        seconds, cpu = np.array(times[number]).T
        answer = client.query(texts[number], settings=settings)
        results.append(
            Result(
                query.purpose,
                float(np.median(seconds)),
                float(np.percentile(seconds, 95)),
                float(np.median(cpu)),
                len(answer.result_rows),
                int(answer.summary["read_rows"]),
                int(answer.summary["read_bytes"]),
            )
        )
    client.close()
    return results


def show(results: list[Result], title: str) -> None:
    """Prints the table."""
    table = Table(
        *("", "query", "median s", "p95 s", f"at most {GOAL_SECONDS:.0f} s"),
        *("CPU s", "rows", "rows read", "read"),
        title=title,
    )
    for number, result in enumerate(results, start=1):
        table.add_row(
            str(number),
            result.purpose,
            f"{result.median:.2f}",
            f"{result.p95:.2f}",
            result.error or ("yes" if result.p95 <= GOAL_SECONDS else "no"),
            f"{result.cpu:.2f}",
            f"{result.answer_rows:,}",
            f"{result.rows_read:,}",
            f"{result.bytes_read / 1e6:,.0f} MB",
        )
    Console(width=max(Console().width, 140)).print(table)


def main(millions: float, runs: int) -> None:
    """Generates, measures and prints."""
    rows = int(millions * 1e6)
    with filled_store(rows) as (store, server):
        [disk] = rows_of(
            store,
            "SELECT sum(bytes_on_disk) AS bytes, sum(rows) AS rows, count() AS parts "
            "FROM system.parts WHERE active AND database = 'infrasight'",
        )
        print(f"\n{disk}", file=sys.stderr)
        results = measured(store, server, runs)
    show(results, f"the queries of docs/queries.md on {rows:,} rows, {runs} runs")
    queries = [asdict(result) for result in results]
    print(json.dumps({"benchmark": "queries", "rows": rows, "disk": disk, "queries": queries}))


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 5,
        int(sys.argv[2]) if len(sys.argv) > 2 else 7,
    )
