"""What an event costs when there is much of something: probes, filters, containers, paths, agents.

usage: growth.py [ROUNDS [EVENTS]]     (as root; 3 rounds of 50,000 events by default)

Each row has two sizes. The rounds alternate between them, and the figures are medians. `kernel` is
the time of all BPF programs of the agent per open, by the kernel's statistics. `agent` is the CPU
time of the recorder's thread, up to the encoded batch. `server` and `store` are the CPU time of
infrasight-server and of ClickHouse per row, without merges. The opens are made on the first CPU,
100,000 a second, and read on the others. A filter excludes what other programs do. The last line is
the same as JSON, in nanoseconds.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.agent.sink import Delivery
from infrasight_core.cli.program_owners import program_holders
from infrasight_core.kernel.filters import PREFIXES, VALUES, Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.kernel.program_list import counting_runs, list_programs
from infrasight_core.net import ipc
from infrasight_core.plugin.manager import PluginManager
from infrasight_server.store.clickhouse import Store
from infrasight_testbed.cgroups import temporary_cgroup
from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.compared_tracers import PROBES, Nowhere
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.simulated_agents import PROBE, Size, connect_agents, exchange
from infrasight_testbed.system import loopback_address, running_system, until
from rich.console import Console
from rich.table import Table

WORKLOADS: Final = Path(__file__).parent.parent / "tests/support/workloads"
GOAL: Final = 1.3
TABLE: Final = f"{PROBE}_events"
CGROUPS: Final = 1_000
PATHS: Final = 10_000
AGENTS: Final = 200
OPENS: Final = 100_000  # a second
ROWS: Final = 100_000
RATE: Final = 60_000.0
STORED: Final = 5_000_000
OWN: Final = Filters(include_comm=("varied_opens",))
MOST: Final = VALUES - 1
NO_PID: Final = 1 << 21  # further than this machine numbers its processes soon

Costs = dict[str, float]
"""Nanoseconds per event or row, by where they are spent."""
Measured = dict[tuple[str, int], list[Costs]]
"""The costs of each round, by what grows and its size."""


class Encoding(Nowhere):
    """A sink that encodes batches as the outbox does, and discards them."""

    def put(self, delivery: Delivery) -> bool:
        """Encodes the batch."""
        ipc.to_frame(delivery.batch)
        return True


class Opens:
    """Makes opens, and measures what they cost the recorder and the kernel.

    Args:
        program: The program varied_opens.
        count: How many opens to make at a time.
        recorder: Records them.
    """

    def __init__(self, program: Path, count: int, recorder: Recorder) -> None:
        self._program = program
        self._count = count
        self._recorder = recorder
        holders = program_holders()
        self._programs = {number for number, pids in holders.items() if os.getpid() in pids}

    def cost(self, paths: int = 1000, processes: int = 1, cgroups: Sequence[Path] = ()) -> Costs:
        """Makes opens of so many paths by so many processes; returns their costs."""
        cpu = str(min(os.sched_getaffinity(1)))
        command = ["taskset", "-c", cpu, self._program, self._count, paths, processes, OPENS]
        clock = self._recorder.cpu_clock()
        before = self._recorder.counts()["open"]
        agent = time.clock_gettime_ns(clock)
        kernel = self._kernel_ns()
        subprocess.run([*map(str, [*command, *cgroups])], check=True)
        made = self._recorder.counts()["open"]
        until(lambda: self._read() >= made.submitted, "every open is read")
        agent = time.clock_gettime_ns(clock) - agent
        kernel = self._kernel_ns() - kernel
        after = self._recorder.counts()["open"]
        if dropped := after.dropped - before.dropped:
            print(f"{dropped:,} events dropped: the machine is too busy", file=sys.stderr)
        return {
            "kernel": kernel / (after.seen - before.seen),
            "agent": agent / (after.read - before.read),
        }

    def filtered(self, filters: Filters) -> Costs:
        """Returns the costs with filters that exclude none of the opens."""
        self._recorder.filter("open", filters.merged(OWN))
        cost = self.cost()
        self._recorder.filter("open", OWN)
        return cost

    def _kernel_ns(self) -> int:
        programs = [each for each in list_programs() if each.number in self._programs]
        return sum(each.run_time_ns for each in programs)

    def _read(self) -> int:
        return self._recorder.counts()["open"].read


@contextmanager
def recording(probes: Sequence[str], program: Path, count: int) -> Iterator[Opens]:
    """Records probes, with all enrichers."""
    plugins = PluginManager.discover(probes)
    recorder = Recorder(plugins, LoadSettings(own_work=False), "here", Encoding())
    assert attach_all(recorder, {probe: ProbeSettings({}, OWN) for probe in probes}) == {}
    recorder.start()
    try:
        opens = Opens(program, count, recorder)
        opens.cost()  # imports, caches
        yield opens
    finally:
        recorder.stop()


def filters_of(kind: str, count: int) -> Filters:
    """Returns filters that exclude other processes, threads or paths than the opens'."""
    numbers = range(count)
    if kind == "pid":
        return Filters(exclude_pid=tuple(NO_PID + number for number in numbers))
    if kind == "comm":
        return Filters(exclude_comm=tuple(f"none{number}" for number in numbers))
    return Filters(exclude_path=tuple(f"/varied/none/{number:04}" for number in numbers))


def measure_agent(program: Path, count: int, cgroups: Sequence[Path], measured: Measured) -> None:
    """Measures what grows at an agent, once."""
    for number in (1, len(PROBES)):
        probes = [probe for probe in ("open", *PROBES) if number > 1 or probe == "open"]
        with recording(list(dict.fromkeys(probes)), program, count) as opens:
            measured["probes", number].append(opens.cost())
            if number > 1:
                continue
            for kind, most in (("pid", MOST), ("comm", MOST), ("path", PREFIXES)):
                for size in (1, most):
                    cost = opens.filtered(filters_of(kind, size))
                    measured[f"filters by {kind}", size].append(cost)
            opens.cost(processes=len(cgroups), cgroups=cgroups)  # learns the containers
            for size in (1, len(cgroups)):
                cost = opens.cost(processes=len(cgroups), cgroups=cgroups[:size])
                measured["containers", size].append(cost)
            for size in (1, PATHS):
                measured["paths", size].append(opens.cost(paths=size))


class Inserts:
    """Sends rows of simulated agents, and measures what they cost the server and ClickHouse.

    Args:
        address: The server's.
        processes: The process ids by name.
    """

    def __init__(self, address: str, processes: dict[str, int]) -> None:
        self._address = address
        self._processes = processes
        self._agents = 0

    async def cost(self, size: Size) -> Costs:
        """Lets new agents send; returns the costs per row."""
        agents = await connect_agents(self._address, size, self._agents)
        self._agents += size.agents
        before = self._cpu()
        await exchange(agents, size, RATE)
        after = self._cpu()
        return {name: (after[name] - before[name]) * 1e9 / ROWS for name in before}

    def _cpu(self) -> dict[str, float]:
        """The CPU seconds of each process so far."""
        return {name: cpu_seconds(pid) for name, pid in self._processes.items()}


@contextmanager
def inserting(folder: Path, clickhouse: ClickHouseServer) -> Iterator[tuple[Inserts, Store]]:
    """Runs a server whose database in ClickHouse is called as the folder."""
    folder.mkdir()
    with running_system(folder, clickhouse.url, folder.name) as system:
        system.address = loopback_address()
        server = system.start_server("--probe", PROBE)
        processes = {"server": server.pid, "store": clickhouse.pid}
        with closing(Store.at(clickhouse.url, folder.name)) as store:
            store.command("SYSTEM STOP MERGES")
            yield Inserts(system.address, processes), store


async def measure_server(folder: Path, rounds: int, measured: Measured) -> None:
    """Measures what grows at a server, in all rounds."""
    few = Size(4, ROWS // 10_000, 2_500)
    with ExitStack() as stack:
        clickhouse = ClickHouseServer(folder / "clickhouse").start()
        stack.callback(clickhouse.kill)
        empty, empty_store = stack.enter_context(inserting(folder / "empty", clickhouse))
        full, full_store = stack.enter_context(inserting(folder / "full", clickhouse))
        await empty.cost(few)  # imports, caches
        await full.cost(few)
        copies = f"SELECT events.* FROM {TABLE} AS events, numbers({STORED // ROWS}) AS copies"
        full_store.command(f"INSERT INTO {TABLE} {copies}")
        for _ in range(rounds):
            empty_store.command(f"TRUNCATE TABLE {TABLE}")
            measured["rows in the table", 0].append(await empty.cost(few))
            measured["rows in the table", STORED].append(await full.cost(few))
            for agents in (1, AGENTS):
                cost = await empty.cost(Size(agents, ROWS // agents // 100, 100))
                measured["agents", agents].append(cost)


def medians(measured: Measured) -> dict[str, dict[int, Costs]]:
    """Returns the median of the rounds, by what grows and its size."""
    found: dict[str, dict[int, Costs]] = defaultdict(dict)
    for (what, size), rounds in measured.items():
        found[what][size] = {
            where: statistics.median(costs[where] for costs in rounds) for where in rounds[0]
        }
    return found


def ratios(costs: dict[int, Costs]) -> Costs:
    """Returns how many times as much an event costs at the largest size as at the smallest."""
    smallest = costs[min(costs)]
    largest = costs[max(costs)]
    return {where: largest[where] / smallest[where] for where in smallest}


def show(found: dict[str, dict[int, Costs]]) -> None:
    """Prints the table."""
    names = ("what grows", "from", "to", "where", "ns per event", "then", "ratio")
    table = Table(*names, title=f"the cost of an event; the goal is a ratio of {GOAL}")
    for what, costs in found.items():
        smallest = min(costs)
        largest = max(costs)
        for where, ratio in ratios(costs).items():
            style = "" if ratio <= GOAL else "bold"
            cells = (f"{costs[size][where]:,.0f}" for size in (smallest, largest))
            table.add_row(
                *(what, f"{smallest:,}", f"{largest:,}", where), *cells, f"{ratio:.2f}", style=style
            )
    Console(width=max(Console().width, 100)).print(table)


def main() -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    cpus = sorted(os.sched_getaffinity(0))
    measured: Measured = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        program = Path(name) / "varied_opens"
        subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "varied_opens.c"], check=True)
        ids = [f"{number:064x}" for number in range(1, CGROUPS + 1)]
        cgroups = [stack.enter_context(temporary_cgroup(0, f"/docker/{each}")) for each in ids]
        os.sched_setaffinity(0, cpus[1:] or cpus)
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # other programs would delay the reader
        with counting_runs():
            for number in range(rounds):
                measure_agent(program, count, cgroups, measured)
                print(f"agent, round {number + 1} of {rounds}", file=sys.stderr)
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        os.sched_setaffinity(0, cpus)
        asyncio.run(measure_server(Path(name), rounds, measured))
    found = medians(measured)
    show(found)
    result = {what: {"ns": costs, "ratio": ratios(costs)} for what, costs in found.items()}
    print(json.dumps({"benchmark": "growth", "rounds": rounds, **result}))


if __name__ == "__main__":
    main()
