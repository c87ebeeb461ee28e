"""What tracing the machine costs the programs on it.

usage: cost.py [ROUNDS]      (as root; 3 rounds by default, which take about 5 minutes)

Each round does the same work untraced, with programs that do nothing on the raw tracepoints of
system calls (the floor), with InfraSight's five probes, with bpftrace and with auditd. The work is
loops of one kind of call and real programs. The figures are medians of the CPU time that the work
took, servers and children included; what the tracers' readers take on another CPU does not count.
The last line is the same as JSON, in nanoseconds.
"""

import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from infrasight_testbed import compared_tracers
from infrasight_testbed.traced_work import Work, loops, programs
from infrasight_testbed.tracers import tracepoint_programs
from rich.console import Console
from rich.table import Table

Times = dict[str, dict[str, list[float]]]
"""The CPU times by work and way, in nanoseconds."""
LOOP_RUNS: Final = 3
WAYS: Final[dict[str, Callable[[], AbstractContextManager[compared_tracers.Dropped]]]] = {
    "untraced": compared_tracers.untraced,
    "floor": compared_tracers.floor,
    "infrasight": compared_tracers.infrasight,
    "bpftrace": compared_tracers.bpftrace,
    "auditd": compared_tracers.auditd,
}


def installed(works: Iterator[Work]) -> Iterator[Work]:
    """Leaves out the work of programs that are not installed, and prints which."""
    for work in works:
        if work.missing:
            print(f"{work.name}: {work.missing} is not installed", file=sys.stderr)
        else:
            yield work


def measure(works: Sequence[Work], rounds: int) -> tuple[Times, dict[str, int | None]]:
    """Returns the times, and the events that each way dropped in all rounds."""
    times: Times = defaultdict(lambda: defaultdict(list))
    dropped: dict[str, int | None] = {}
    for number in range(rounds):
        for way, tracer in WAYS.items():
            print(f"round {number + 1} of {rounds}: {way}", file=sys.stderr)
            with tracer() as count_dropped:
                for work in works:
                    runs = LOOP_RUNS if work.operations > 1 else 1
                    times[work.name][way] += [work.cpu_ns() for _ in range(runs)]
                lost = count_dropped()
            dropped[way] = None if lost is None else lost + (dropped.get(way) or 0)
    return times, dropped


def show(medians: dict[str, dict[str, float]], dropped: dict[str, int | None]) -> None:
    """Prints the table."""
    peers = [way for way in WAYS if way != "untraced"]
    table = Table("", "untraced", *peers, "auditd adds / InfraSight adds", title="CPU of the work")
    for name, by_way in medians.items():
        base = by_way["untraced"]
        cells = [f"{by_way[way] / base:.2f}x (+{text(by_way[way] - base)})" for way in peers]
        ours = by_way["infrasight"] - base
        ratio = f"{(by_way['auditd'] - base) / ours:.0f}x" if ours > 0 else "-"
        table.add_row(name, text(base), *cells, ratio)
    lost = ["-" if dropped[way] is None else f"{dropped[way]:,}" for way in peers]
    table.add_row("events dropped", "-", *lost, "")
    Console(width=max(Console().width, 150)).print(table)


def text(nanoseconds: float) -> str:
    """A time with its unit."""
    if abs(nanoseconds) < 10_000:
        return f"{nanoseconds:.0f} ns"
    if abs(nanoseconds) < 10_000_000:
        return f"{nanoseconds / 1e3:.0f} µs"
    return f"{nanoseconds / 1e6:.0f} ms"


def main() -> None:
    """Measures and prints."""
    if others := tracepoint_programs():
        print(f"{len(others)} programs of other tracers slow every call, too", file=sys.stderr)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        works = [*installed(loops(folder)), *installed(programs(folder))]
        times, dropped = measure(works, rounds)
    medians = {
        work: {way: statistics.median(found) for way, found in by_way.items()}
        for work, by_way in times.items()
    }
    show(medians, dropped)
    print(json.dumps({"benchmark": "cost", "ns": medians, "dropped": dropped}))


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    main()
