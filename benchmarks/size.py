"""Bytes per row on the wire and at rest, of real work that all probes record.

usage: size.py [RUNS [OPENS]]      (as root; 1 run of mixed work and 300,000 opens by default)

The storm opens files with similar paths. The mixed work builds packages, compiles, uses git and
runs servers; the events of other programs on the machine are among the rows. *Wire* is what the
agent sends: each batch as an Arrow IPC stream in a zstd frame. *Plain* is the same without
compression. *Rest* is the compressed data of the probes' tables after a merge of all parts, in the
layout of large parts. *Naive* is the same rows in a table with the same columns without codecs and
LowCardinality, ordered by time. The last line is the same as JSON.
"""

import json
import re
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from attrs import field, frozen
from infrasight_core.net import ipc
from infrasight_core.plugin.ddl import TableDefinition, define_table
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.migration import migrate
from infrasight_testbed.compared_tracers import PROBES
from infrasight_testbed.mixed_work import MixedWork
from infrasight_testbed.recorded_work import RecordedWork, recorded_work
from rich.console import Console
from rich.table import Table

WORKLOADS: Final = Path(__file__).parent.parent / "tests/support/workloads"
TOP: Final = 12
FRAMING: Final = "(schema, framing)"
OFFSETS: Final = "(offsets)"
"""Where each value of a column of texts or lists begins."""
LOW_CARDINALITY: Final = re.compile(r"LowCardinality\(String\)")
WIDE: Final = "min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0"


@frozen
class Goal:
    """The most bytes per row on the wire and at rest."""

    wire: float
    rest: float


GOALS: Final = {"storm": Goal(10, 5), "mixed": Goal(40, 15)}


@frozen
class Sizes:
    """The bytes of some rows, and of each of their columns.

    Attributes:
        rows: The rows.
        batches: The batches in which an agent sends them.
        wire: The bytes on the wire.
        plain: The same without compression.
        rest: The bytes at rest.
        naive: The bytes at rest in the naive tables.
    """

    rows: int = 0
    batches: int = 0
    wire: Counter[str] = field(factory=Counter)
    plain: Counter[str] = field(factory=Counter)
    rest: Counter[str] = field(factory=Counter)
    naive: Counter[str] = field(factory=Counter)

    def per_row(self) -> dict[str, float]:
        """Returns the bytes of a row."""
        sizes = {"wire": self.wire, "plain": self.plain, "rest": self.rest, "naive": self.naive}
        return {name: size.total() / self.rows for name, size in sizes.items()}


def total(parts: Sequence[Sizes]) -> Sizes:
    """Returns the sums."""
    return Sizes(
        rows=sum(part.rows for part in parts),
        batches=sum(part.batches for part in parts),
        wire=sum((part.wire for part in parts), Counter()),
        plain=sum((part.plain for part in parts), Counter()),
        rest=sum((part.rest for part in parts), Counter()),
        naive=sum((part.naive for part in parts), Counter()),
    )


def recorded(run: Callable[[], object]) -> RecordedWork:
    """Returns what all probes record of some work."""
    with recorded_work(PROBES) as work:
        run()
    return work


def sizes_of(work: RecordedWork, probe: str, store: Store) -> Sizes:
    """Measures the rows of one probe, which are stored in empty tables."""
    batches = work.batches(probe)
    wire: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    for batch in batches:
        wire.update(columns_on_wire(batch))
        plain.update({name: batch[name].nbytes for name in batch.schema.names})
    if batches:
        table = define_table(probe, work.plugins.schemas()[probe])
        store.command(f"ALTER TABLE {table.name} MODIFY SETTING {WIDE}")
        store.insert(table.name, work.stored_rows(probe), uuid.uuid4().hex)
        store.command(naive_statement(table))
        names = ", ".join(column.name for column in table.columns if column.stored)
        store.command(f"INSERT INTO naive_{table.name} SELECT {names} FROM {table.name}")
    return Sizes(
        rows=work.rows(probe),
        batches=len(batches),
        wire=wire,
        plain=plain,
        rest=columns_at_rest(store, f"{probe}_events"),
        naive=columns_at_rest(store, f"naive_{probe}_events"),
    )


def columns_on_wire(batch: pa.RecordBatch) -> Counter[str]:
    """Returns the bytes of each column compressed by itself, and what the whole batch differs."""
    sizes: Counter[str] = Counter()
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        sizes[name] = column_size(column)
        if pa.types.is_list(column.type) or pa.types.is_map(column.type) or is_text(column.type):
            size = column_size(offsets_of(column))
            sizes[name] -= size
            sizes[OFFSETS] += size
    sizes[FRAMING] = len(ipc.to_frame(batch)) - sizes.total()
    return sizes


def is_text(arrow: pa.DataType) -> bool:
    """Returns whether the values differ in length."""
    return arrow in (pa.string(), pa.binary())


def offsets_of(column: pa.Array) -> pa.Array:
    """Returns where each value of a column of texts or lists begins, and where the last ends."""
    buffers = [None, column.buffers()[1]]
    return pa.Array.from_buffers(pa.int32(), len(column) + 1, buffers, offset=column.offset)


def column_size(column: pa.Array) -> int:
    """Returns the bytes that a column adds to a frame."""
    batch = pa.RecordBatch.from_arrays([column], ["column"])
    empty = pa.RecordBatch.from_pylist([], batch.schema)
    return len(ipc.to_frame(batch)) - len(ipc.to_frame(empty))


def naive_statement(table: TableDefinition) -> str:
    """Returns the DDL that a user would write first."""
    columns = ", ".join(
        f"`{column.name}` {LOW_CARDINALITY.sub('String', column.type)}"
        for column in table.columns
        if column.stored
    )
    return (
        f"CREATE TABLE naive_{table.name} ({columns}) ENGINE = MergeTree ORDER BY time "
        f"SETTINGS {WIDE}"
    )


def columns_at_rest(store: Store, table: str) -> Counter[str]:
    """Merges a table's parts into one; returns the compressed bytes of each column."""
    if not store.columns(table):
        return Counter()
    store.command(f"OPTIMIZE TABLE {table} FINAL")
    sql = (
        "SELECT name, data_compressed_bytes AS bytes FROM system.columns "
        f"WHERE database = '{store.database}' AND table = '{table}' AND data_compressed_bytes > 0"
    )
    found = Counter({row["name"].decode(): row["bytes"] for row in rows_of(store, sql)})
    sql = (
        "SELECT sum(data_compressed_bytes) AS bytes FROM system.parts "
        f"WHERE active AND database = '{store.database}' AND table = '{table}'"
    )
    [whole] = rows_of(store, sql)
    assert found.total() == whole["bytes"], f"{table}: {found.total()} of {whole}"
    return found


def rows_of(store: Store, sql: str) -> list[dict[str, Any]]:
    """Returns the rows of a query."""
    return [row for piece in store.query(sql) for row in piece.to_pylist()]


def measured(work: RecordedWork, folder: Path) -> dict[str, Sizes]:
    """Returns the sizes by probe."""
    store = Store.embedded(folder, "infrasight")
    try:
        migrate(store, work.plugins.schemas(), None)
        return {probe: sizes_of(work, probe, store) for probe in PROBES}
    finally:
        store.close()


def show(name: str, by_probe: dict[str, Sizes], whole: Sizes) -> None:
    """Prints the bytes per row by probe, and of the largest columns."""
    goal = GOALS[name]
    table = Table(
        *("probe", "rows", "batches", "wire", f"goal {goal.wire:.0f}", "plain / wire"),
        *("rest", f"goal {goal.rest:.0f}", "naive", "naive / rest"),
        title=f"{name}: bytes per row",
    )
    for probe, sizes in (*by_probe.items(), ("all", whole)):
        if not sizes.rows:
            continue
        size = sizes.per_row()
        table.add_row(
            probe,
            f"{sizes.rows:,}",
            f"{sizes.batches:,}",
            f"{size['wire']:.1f}",
            "met" if size["wire"] <= goal.wire else "not met",
            f"{size['plain'] / size['wire']:.1f}x",
            f"{size['rest']:.1f}",
            "met" if size["rest"] <= goal.rest else "not met",
            f"{size['naive']:.1f}",
            f"{size['naive'] / size['rest']:.1f}x",
        )
    console = Console(width=max(Console().width, 120))
    console.print(table)
    columns = Table("on the wire", "bytes", "at rest", "bytes", "naive", title="largest columns")
    on_wire = largest(whole.wire, whole.rows)
    at_rest = largest(whole.rest, whole.rows)
    for wire, rest in zip(on_wire.items(), at_rest.items(), strict=True):
        naive = whole.naive[rest[0]] / whole.rows
        columns.add_row(wire[0], f"{wire[1]:.2f}", rest[0], f"{rest[1]:.2f}", f"{naive:.2f}")
    console.print(columns)


def largest(columns: Counter[str], rows: int) -> dict[str, float]:
    """Returns the bytes per row of the largest columns."""
    return {name: size / rows for name, size in columns.most_common(TOP)}


def report(by_probe: dict[str, Sizes], whole: Sizes, dropped: int) -> dict[str, Any]:
    """Returns the figures of some work."""
    probes = {
        probe: {"rows": sizes.rows, **sizes.per_row()}
        for probe, sizes in by_probe.items()
        if sizes.rows
    }
    return {
        "rows": whole.rows,
        "dropped": dropped,
        **whole.per_row(),
        "probes": probes,
        "wire_columns": largest(whole.wire, whole.rows),
        "rest_columns": largest(whole.rest, whole.rows),
    }


def main(runs: int, opens: int) -> None:
    """Measures and prints."""
    reports = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        storm = folder / "open_storm"
        subprocess.run(["cc", "-O2", "-w", "-o", storm, WORKLOADS / "open_storm.c"], check=True)
        mixed = MixedWork(folder)
        works: dict[str, Callable[[], object]] = {
            "storm": lambda: subprocess.check_output([storm, str(opens)]),
            "mixed": lambda: mixed.run(runs),
        }
        for kind, run in works.items():
            print(f"recording: {kind}", file=sys.stderr)
            work = recorded(run)
            by_probe = measured(work, folder / f"store-{kind}")
            whole = total([*by_probe.values()])
            show(kind, by_probe, whole)
            reports[kind] = report(by_probe, whole, work.dropped)
    print(json.dumps({"benchmark": "size", "bytes_per_row": reports}))


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1,
        int(sys.argv[2]) if len(sys.argv) > 2 else 300_000,
    )
