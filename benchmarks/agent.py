"""The agent at rest and under a storm of executions: memory, CPU and delay.

usage: agent.py      (as root)

The whole agent's CPU per event is that of executions, which come one after the other; reader.py
compares the CPU per event of opens and executions with BCC's per-event callback. The last line is
the same as JSON.
"""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import infrasight_probe_execve.plugin
import numpy as np
from infrasight_core.agent.sink import Delivery
from infrasight_core.plugin.arrays import view
from infrasight_recording import Recording, recording
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.system import Process, execute, running_system
from rich.console import Console
from rich.table import Table

WORKLOADS = Path(__file__).parent.parent / "tests/support/workloads"
SETTLE_SECONDS = 5.0
REST_SECONDS = 30.0
STORM_CALLS = 6000
QUIET_CALLS = 60
TITLES = {
    "agent_at_rest_percent": "CPU at rest, agent, % of one CPU",
    "server_at_rest_percent": "CPU at rest, server, % of one CPU",
    "store_at_rest_percent": "CPU at rest, store, % of one CPU",
    "memory_at_rest_mib": "memory at rest, MiB",
    "executions_per_second": "storm, executions/s",
    "executions_read": "executions read",
    "events_dropped": "events dropped",
    "cpu_per_execution_us": "CPU per execution, the whole agent, µs",
    "memory_after_storm_mib": "memory after it, MiB",
    "has_libllvm": "libLLVM mapped",
    "delay_median_ms": "delay when quiet, median, ms",
    "delay_longest_ms": "delay when quiet, longest, ms",
}


def rss_mb(process: Process) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
        / 1024
    )


class Timed(Recording):
    """A sink that measures the delay of each event from the kernel to its batch."""

    def put(self, delivery: Delivery) -> bool:
        """Stores the delays in milliseconds."""
        ends = view(delivery.batch["time"].cast("int64")) + view(
            delivery.batch["duration_ns"]
        ).astype(np.int64)
        self.delays = [*getattr(self, "delays", []), *((time.time_ns() - ends) / 1e6)]
        return True


def quiet_delays() -> list[float]:
    """The milliseconds from the kernel to a conforming batch, of single calls with pauses."""
    timed = Timed()
    with recording("execve", infrasight_probe_execve.plugin, sink=timed):
        for number in range(QUIET_CALLS):
            execute("delay", 1, number)
            time.sleep(0.11 + 0.01 * (number % 7))
    return sorted(timed.delays)


def main() -> None:
    """Prints the table."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, running_system(Path(folder)) as system:
        storm = Path(folder) / "exec_storm"
        subprocess.run(["cc", "-O2", "-w", "-o", storm, WORKLOADS / "exec_storm.c"], check=True)
        server = system.start_server()
        agent = system.start_agent(every_probe=True)
        time.sleep(SETTLE_SECONDS)
        pids = {"agent": agent.pid, "server": server.pid, "store": child_of(server.pid)}
        at_rest = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(REST_SECONDS)
        for name, pid in pids.items():
            share = (cpu_seconds(pid) - at_rest[name]) / REST_SECONDS
            figures[f"{name}_at_rest_percent"] = share * 100
        figures["memory_at_rest_mib"] = rss_mb(agent)
        before = cpu_seconds(agent.pid)
        began = time.monotonic()
        subprocess.run([storm, str(STORM_CALLS)], check=True)
        took = time.monotonic() - began
        time.sleep(2)
        events = agent.metric('infrasight_events_read_total{probe="execve"')
        figures["executions_per_second"] = STORM_CALLS / took
        figures["executions_read"] = events
        figures["events_dropped"] = agent.metric("infrasight_events_dropped_total")
        used = cpu_seconds(agent.pid) - before
        figures["cpu_per_execution_us"] = used / events * 1e6
        figures["memory_after_storm_mib"] = rss_mb(agent)
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
        figures["has_libllvm"] = "libLLVM" in maps
    delays = quiet_delays()
    figures["delay_median_ms"] = statistics.median(delays)
    figures["delay_longest_ms"] = delays[-1]
    table = Table("figure", "value", title="the agent, with all probes")
    for name, value in figures.items():
        table.add_row(TITLES[name], f"{value:,.1f}" if isinstance(value, float) else str(value))
    Console().print(table)
    print(json.dumps({"benchmark": "agent", **figures}))


if __name__ == "__main__":
    main()
