"""The agent at rest and under a storm of executions: memory, CPU and delay."""

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
    table = Table("figure", "value", title="the agent, with all probes")
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
            table.add_row(f"CPU at rest, {name}", f"{share:.2%} of one CPU")
        table.add_row("memory at rest", f"{rss_mb(agent):.0f} MB")
        before = cpu_seconds(agent.pid)
        began = time.monotonic()
        subprocess.run([storm, str(STORM_CALLS)], check=True)
        took = time.monotonic() - began
        time.sleep(2)
        events = agent.metric('infrasight_events_read_total{probe="execve"')
        table.add_row("storm", f"{STORM_CALLS / took:,.0f} executions/s, {events:,.0f} events read")
        table.add_row("dropped", f"{agent.metric('infrasight_events_dropped_total'):,.0f}")
        table.add_row(
            "CPU per event, the whole agent",
            f"{(cpu_seconds(agent.pid) - before) / events * 1e6:.0f} µs",
        )
        table.add_row("memory after it", f"{rss_mb(agent):.0f} MB")
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
        table.add_row("libLLVM mapped", "yes" if "libLLVM" in maps else "no")
    delays = quiet_delays()
    table.add_row(
        "delay when quiet",
        f"median {delays[len(delays) // 2]:.0f} ms, longest {delays[-1]:.0f} ms of {len(delays)}",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
