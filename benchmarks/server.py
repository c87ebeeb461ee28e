"""The server under the batches of many agents: CPU per row, and the time to acknowledgement.

Simulated agents send recorded batches at a fixed rate over real gRPC streams to a server with its
embedded store. The CPU is that of the server's process and of the store's, not of the agents. A
server that is too slow for the rate acknowledges later and later.

usage: server.py [ROUNDS [ROWS_PER_SECOND]]   (1 round and 40,000 rows/s by default)
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from attrs import asdict, frozen
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.simulated_agents import PROBE, Size, run_agents
from infrasight_testbed.system import loopback_address, running_system
from rich.console import Console
from rich.table import Table

RATE = 40_000.0


SIZES = (Size(200, 20, 100), Size(4, 25, 10_000))


@frozen
class Result:
    """One round: µs of CPU per row, rows per second, seconds to acknowledgement."""

    server_us: float
    store_us: float
    rows_per_second: float
    median_seconds: float
    longest_seconds: float


def measured(size: Size, rate: float) -> Result:
    """Measures one round with a new server."""
    with tempfile.TemporaryDirectory() as folder, running_system(Path(folder)) as system:
        system.address = loopback_address()
        server = system.start_server("--probe", PROBE)
        pids = (server.pid, child_of(server.pid))
        asyncio.run(run_agents(system.address, Size(2, 2, size.rows), rate))  # imports, caches
        before = [cpu_seconds(pid) for pid in pids]
        began = time.monotonic()
        agents = asyncio.run(run_agents(system.address, size, rate))
        taken = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
        rows = size.agents * size.batches * size.rows
        counted = system.query(f"SELECT count() AS rows FROM {PROBE}_events")[0]["rows"]
        assert int(counted) == rows + 4 * size.rows, counted
    seconds = sorted(second for agent in agents for second in agent.seconds)
    return Result(
        taken[0] / rows * 1e6,
        taken[1] / rows * 1e6,
        rows / (max(agent.last for agent in agents) - began),
        statistics.median(seconds),
        seconds[-1],
    )


def main(rounds: int, rate: float) -> None:
    """Prints the table, and then the same as one line of JSON."""
    table = Table(
        "agents",
        "rows a batch",
        "server µs/row",
        "store µs/row",
        "rows/s",
        "median s",
        "longest s",
        title=f"the server under {rate:,.0f} rows/s: CPU, and time to acknowledgement",
    )
    report = []
    for size in SIZES:
        results = []
        for number in range(rounds):
            results.append(measured(size, rate))
            print(f"{size}, round {number + 1} of {rounds}: {results[-1]}", file=sys.stderr)
        medians = {
            name: statistics.median(asdict(result)[name] for result in results)
            for name in asdict(results[0])
        }
        table.add_row(
            str(size.agents),
            f"{size.rows:,}",
            f"{medians['server_us']:.2f}",
            f"{medians['store_us']:.2f}",
            f"{medians['rows_per_second']:,.0f}",
            f"{medians['median_seconds']:.2f}",
            f"{medians['longest_seconds']:.2f}",
        )
        report.append({**asdict(size), **medians})
    Console().print(table)
    print(json.dumps(report))


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1,
        float(sys.argv[2]) if len(sys.argv) > 2 else RATE,
    )
