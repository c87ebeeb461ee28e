"""From the kernel to rows that a query returns, at a rate that rises until the first loss.

usage: pipeline.py [SECONDS [RATE...]]      (as root; 10 seconds for each rate by default)

An agent with all probes streams over mutual TLS to a server with the embedded store. Two processes
on the same CPUs open files at a rate. Each rate ends with exact accounts: the opens made are the
rows stored and the events dropped, and no row is stored twice. The last line is the same as JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import asdict, frozen
from infrasight_testbed.certificates import CertificateAuthority, tls_options
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.process_memory import MIB, peak, reset_peak
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.system import Process, System, loopback_address, running_system
from rich.console import Console
from rich.table import Table

WORKLOADS: Final = Path(__file__).parent.parent / "tests/support/workloads"
RATES: Final = (50_000, 100_000, 200_000, 300_000, 350_000, 400_000)
PROCESSES: Final = 2
STORE_SECONDS: Final = 120.0
STILL_SECONDS: Final = 0.5  # without a new row, once others were dropped


@frozen
class Outcome:
    """The outcome of the opens at one rate.

    Attributes:
        rate: The rate asked for, per second.
        made: The opens made.
        seconds: How long that took.
        rows: The rows stored.
        dropped: The events of `open` that the agent counted as dropped, of all programs.
        doubled: Rows stored a second time.
        cpu: CPU in µs per row of the agent, the server and the store.
        memory: The most resident memory of each, in MiB.
        stored_seconds: From the end of the last open to the query that returned all rows.
    """

    rate: int
    made: int
    seconds: float
    rows: int
    dropped: int
    doubled: int
    cpu: dict[str, float]
    memory: dict[str, int]
    stored_seconds: float


class Pipeline:
    """A running agent and server.

    Args:
        system: Both.
        options: The options of a reader.
        processes: The process ids of the agent, the server and the store.
        agent: The agent.
        program: The program paced_opens.
    """

    def __init__(
        self,
        system: System,
        options: Sequence[str],
        processes: dict[str, int],
        agent: Process,
        program: Path,
    ) -> None:
        self._system = system
        self._options = options
        self._processes = processes
        self._agent = agent
        self._program = program

    def run(self, rate: int, seconds: int) -> Outcome:
        """Makes opens at a rate, waits for their rows and counts."""
        cpu_before = self._cpu()
        dropped_before = self._dropped()
        for pid in self._processes.values():
            reset_peak(pid)
        began = time.monotonic()
        command = [str(self._program), str(rate / PROCESSES), str(seconds)]
        opening = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
        ]
        made = sum(int(process.communicate()[0]) for process in opening)
        took = time.monotonic() - began
        pids = [process.pid for process in opening]
        self._wait_until_stored(pids, made, dropped_before)
        stored = time.monotonic() - began - took
        found = self._count(pids)
        cpu = {
            name: (seconds_now - cpu_before[name]) * 1e6 / max(found["n"], 1)
            for name, seconds_now in self._cpu().items()
        }
        return Outcome(
            rate=rate,
            made=made,
            seconds=took,
            rows=found["n"],
            dropped=self._dropped() - dropped_before,
            doubled=found["n"] - found["different"],
            cpu=cpu,
            memory={name: peak(pid) // MIB for name, pid in self._processes.items()},
            stored_seconds=stored,
        )

    def _wait_until_stored(self, pids: list[int], made: int, dropped_before: int) -> None:
        """Waits until every open is a row, or no more come and the others may have been dropped."""
        end = time.monotonic() + STORE_SECONDS
        rows = -1
        while (stored := self._count(pids)["n"]) < made:
            may_be_dropped = made - stored <= self._dropped() - dropped_before
            if stored == rows and may_be_dropped:
                return
            if time.monotonic() > end:
                raise SystemExit(f"{made - stored:,} opens are neither stored nor dropped")
            rows = stored
            time.sleep(STILL_SECONDS)

    def _count(self, pids: list[int]) -> dict[str, int]:
        [row] = self._system.query(
            "SELECT count() AS n, uniqExact(path) AS different FROM open_events "
            f"WHERE pid IN ({', '.join(map(str, pids))}) AND startsWith(path, '/paced/')",
            *self._options,
        )
        return {name: int(value) for name, value in row.items()}

    def _dropped(self) -> int:
        return int(self._agent.metric('infrasight_events_dropped_total{probe="open"'))

    def _cpu(self) -> dict[str, float]:
        """The CPU seconds of each process so far."""
        return {name: cpu_seconds(pid) for name, pid in self._processes.items()}


@contextmanager
def pipeline(folder: Path) -> Iterator[Pipeline]:
    """Runs an agent and a server with mutual TLS."""
    program = folder / "paced_opens"
    subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "paced_opens.c"], check=True)
    authority = CertificateAuthority(folder / "ca", "benchmark")
    reader = tls_options(authority.issue("reader", uris=("reader/benchmark",)))
    with running_system(folder) as system:
        system.address = loopback_address()
        server = system.start_server(*tls_options(authority.issue("server", uris=("server",))))
        certificate = tls_options(authority.issue("agent", uris=("agent/node-a",)))
        agent = system.start_agent(*certificate, every_probe=True)
        processes = {"agent": agent.pid, "server": server.pid, "store": child_of(server.pid)}
        yield Pipeline(system, reader, processes, agent, program)


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints the table."""
    table = Table(
        *("opens/s", "made", "rows", "dropped", "doubled", "all stored after"),
        *("CPU per row: agent", "server", "store", "all", "memory: agent", "server", "store"),
        title="from the kernel to a row",
    )
    for each in outcomes:
        cpu = [*each.cpu.values(), sum(each.cpu.values())]
        table.add_row(
            f"{each.made / each.seconds:,.0f}",
            *(f"{count:,}" for count in (each.made, each.rows, each.dropped, each.doubled)),
            f"{each.stored_seconds:.1f} s",
            *(f"{value:.2f} µs" for value in cpu),
            *(f"{value} MiB" for value in each.memory.values()),
        )
    Console(width=max(Console().width, 160)).print(table)


def main() -> None:
    """Raises the rate until events are dropped, or a process cannot make as many."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    rates = tuple(map(int, sys.argv[2:])) or RATES
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name, pipeline(Path(name)) as running:
        for rate in rates:
            outcomes.append(running.run(rate, seconds))
            print(f"{rate:,} per second: {outcomes[-1].dropped:,} dropped", file=sys.stderr)
            if outcomes[-1].dropped:
                break
    show(outcomes)
    result: dict[str, Any] = {"benchmark": "pipeline", "outcomes": [*map(asdict, outcomes)]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
