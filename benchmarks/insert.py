"""The cost of inserting prepared rows into a real ClickHouse, beside a plain client.

usage: insert.py [ROUNDS [ROWS]]      (as root; 5 rounds of 4 inserts of 100,000 rows by default)

The rows are real opens with all columns, as the server inserts them. Each round inserts them with
the server's store into the embedded store and into a ClickHouse server over HTTP, and with
`clickhouse_connect`'s `insert` of Python tuples into a table with the same DDL in that server. The
client is this process: for the server's store, the code of infrasight-server. The store is the
process of chDB or ClickHouse. No parts are merged meanwhile; at the end, one merge of all parts
is measured by itself. The figures are medians of the rounds. The last line is the same as JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from attrs import asdict, frozen
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.recorded_work import recorded_work, repeat_until_recorded
from rich.console import Console
from rich.table import Table

PROBE: Final = "open"
TABLE: Final = "open_events"
INSERTS: Final = 4
"""Inserts of each round: more of them than the resolution of the CPU times requires."""
GOAL: Final = 500_000
"""Rows per second of the client's CPU."""
OPENING: Final = ("grep", "-rlx", "none", "/usr/include", "/etc")
PEER: Final = "clickhouse_connect"


@frozen
class Way:
    """A way to insert.

    Attributes:
        store: The store, for statements.
        pid: The process of chDB or ClickHouse.
        insert: Inserts all rows once.
    """

    store: Store
    pid: int
    insert: Callable[[], object]


@frozen
class Cost:
    """The CPU of a row in µs, user and system, and the rows per second that pass."""

    client: float
    store: float
    rows_per_second: float


def recorded_rows(count: int) -> tuple[pa.Table, Any]:
    """Records opens of many programs; returns so many rows, and the schemas by probe."""
    with recorded_work([PROBE]) as work:

        def open_files() -> None:
            subprocess.run(OPENING, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        repeat_until_recorded(work, PROBE, count, open_files)
    rows = work.stored_rows(PROBE)
    return rows.slice(0, count).combine_chunks(), work.plugins.schemas()


def as_tuples(rows: pa.Table) -> list[tuple[Any, ...]]:
    """Returns the rows as a program in Python would hold them; times stay exact, as integers."""
    columns = []
    for column in rows.columns:
        exact = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        values = exact.to_pylist()
        if pa.types.is_map(column.type):
            values = [dict(pairs) for pairs in values]
        columns.append([as_text(value) for value in values])
    return list(zip(*columns, strict=True))


def as_text(value: Any) -> Any:
    """Returns bytes as text, also in lists."""
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


@contextmanager
def ways(folder: Path, rows: pa.Table, schemas: Any) -> Iterator[Mapping[str, Way]]:
    """Opens the stores, with empty tables."""
    embedded = Store.embedded(folder / "embedded", "infrasight")
    chdb = child_of(os.getpid())
    server = ClickHouseServer(folder / "server").start()
    served = Store.at(server.url, "infrasight")
    plain = Store.at(server.url, "plain")
    for store in (embedded, served, plain):
        migrate(store, schemas, None)
        store.command(f"SYSTEM STOP MERGES {store.database}.{TABLE}")
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=urlsplit(server.url).port, database="plain"
    )
    tuples = as_tuples(rows)
    names = rows.column_names
    try:
        yield {
            "embedded": Way(embedded, chdb, lambda: insert(embedded, rows)),
            "over HTTP": Way(served, server.pid, lambda: insert(served, rows)),
            PEER: Way(plain, server.pid, lambda: client.insert(TABLE, tuples, column_names=names)),
        }
    finally:
        client.close()
        for store in (embedded, served, plain):
            store.close()
        server.kill()


def insert(store: Store, rows: pa.Table) -> None:
    """Inserts the rows as the server does."""
    store.insert(TABLE, rows, uuid.uuid4().hex)


def measured(way: Way, rows: int) -> Cost:
    """Inserts the rows several times."""
    store_before = cpu_seconds(way.pid)
    client_before = time.process_time()
    began = time.monotonic()
    for _ in range(INSERTS):
        way.insert()
    seconds = time.monotonic() - began
    client = time.process_time() - client_before
    store = cpu_seconds(way.pid) - store_before
    inserted = rows * INSERTS
    return Cost(client / inserted * 1e6, store / inserted * 1e6, inserted / seconds)


def merge_us(way: Way, rows: int) -> float:
    """Merges all parts into one; returns the store's CPU of a row in µs."""
    before = cpu_seconds(way.pid)
    way.store.command(f"SYSTEM START MERGES {way.store.database}.{TABLE}")
    way.store.command(f"OPTIMIZE TABLE {TABLE} FINAL")
    return (cpu_seconds(way.pid) - before) / rows * 1e6


def checksum(way: Way) -> tuple[int, int]:
    """Returns the number of rows and a hash over their content, whichever their order."""
    sql = f"SELECT count() AS rows, sumWithOverflow(cityHash64(*)) AS hash FROM {TABLE}"
    [found] = [row for piece in way.store.query(sql) for row in piece.to_pylist()]
    return found["rows"], found["hash"]


def show(costs: Mapping[str, Cost], merges: Mapping[str, float], rows: int) -> None:
    """Prints the table."""
    peer = costs[PEER]
    table = Table(
        *("inserting", "client µs/row", "store µs/row", "one merge µs/row", "rows/s"),
        *("rows/s of a core, client", "client and store", "peer's client / this"),
        title=f"inserts of {rows:,} rows of {PROBE}: CPU; goal: {GOAL:,} rows/s of a client's core",
    )
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{cost.client:.2f}",
            f"{cost.store:.2f}",
            f"{merges[name]:.2f}",
            f"{cost.rows_per_second:,.0f}",
            f"{1e6 / cost.client:,.0f}",
            f"{1e6 / (cost.client + cost.store):,.0f}",
            f"{peer.client / cost.client:.1f}x",
        )
    Console(width=max(Console().width, 140)).print(table)


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    rows, schemas = recorded_rows(count)
    found: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder, ways(Path(folder), rows, schemas) as running:
        for way in running.values():
            way.insert()  # imports, connections, caches
        for number in range(rounds):
            for name, way in running.items():
                found.setdefault(name, []).append(measured(way, count))
                print(f"round {number + 1} of {rounds}, {name}: {found[name][-1]}", file=sys.stderr)
        sums = {checksum(way) for way in running.values()}
        assert len(sums) == 1, f"the tables differ: {sums}"
        stored = sums.pop()[0]
        merges = {name: merge_us(way, stored) for name, way in running.items()}
    costs = {name: median(each) for name, each in found.items()}
    show(costs, merges, count)
    results = {name: {**asdict(cost), "merge": merges[name]} for name, cost in costs.items()}
    print(json.dumps({"benchmark": "insert", "rows": count, "us_per_row": results}))


def median(costs: list[Cost]) -> Cost:
    """Returns the medians of several rounds."""
    return Cost(
        statistics.median(cost.client for cost in costs),
        statistics.median(cost.store for cost in costs),
        statistics.median(cost.rows_per_second for cost in costs),
    )


if __name__ == "__main__":
    main()
