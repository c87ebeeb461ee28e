"""The cost of enriching: µs of CPU per event from the block to a record batch.

Each round runs the same storm of openat(2) in a container's cgroup, first with the core's enrichers
and then without. The figures are medians of the rounds. The storm runs on the first CPU, the reader
on the others.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import infrasight_core.enrichers.containers
import infrasight_core.enrichers.errors
import infrasight_core.enrichers.users
import infrasight_probe_sample.plugin
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording
from infrasight_testbed.cgroups import run_in_cgroups, temporary_cgroup
from rich.console import Console
from rich.table import Table

STORM = Path(__file__).parent.parent / "tests/support/workloads/open_storm.c"
CALLS = 1_000_000
CONTAINER = "c" * 64
WAYS: dict[str, dict[str, object]] = {
    "without": {},
    "users and errors": {
        "users": infrasight_core.enrichers.users,
        "errors": infrasight_core.enrichers.errors,
    },
    "and containers": {
        "users": infrasight_core.enrichers.users,
        "errors": infrasight_core.enrichers.errors,
        "containers": infrasight_core.enrichers.containers,
    },
}


def measured(enrichers: dict[str, object], command: list[str]) -> float:
    """Measures the recorder's thread in µs per event."""
    plugins = PluginManager()
    for name, plugin in {"sample": infrasight_probe_sample.plugin, **enrichers}.items():
        plugins.register(name, plugin)
    recorded = Recording()
    recorder = Recorder(plugins, LoadSettings(), "here", recorded)
    assert attach_all(recorder, {"sample": ProbeSettings()}) == {}
    recorder.start()
    clock = recorder.cpu_clock()
    with temporary_cgroup(0, f"/docker/{CONTAINER}") as cgroup:
        time.sleep(0.3)
        began = time.clock_gettime(clock)
        run_in_cgroups([cgroup], *command)
        time.sleep(0.3)
        busy = time.clock_gettime(clock) - began
    events = sum(delivery.batch.num_rows for delivery in recorded.deliveries)
    recorder.stop()
    if "containers" in enrichers:
        assert CONTAINER in recorded.table["container_id"].unique().to_pylist()
    return float(busy / events * 1e6)


def main(rounds: int) -> None:
    """Prints the table."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cpus[1:] or cpus)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/open_storm"
        subprocess.run(["cc", "-O2", "-w", "-o", program, STORM], check=True)
        command = ["taskset", "-c", str(cpus[0]), program, str(CALLS)]
        for number in range(rounds):
            for way, enrichers in WAYS.items():
                taken[way].append(measured(enrichers, command))
            progress = ", ".join(f"{way} {times[-1]:.3f} µs" for way, times in taken.items())
            print(f"enriching, round {number + 1} of {rounds}: {progress}", file=sys.stderr)
    table = Table(
        "enrichers",
        "µs of CPU per event",
        "of without",
        title="from block to record batch, enriched and not",
    )
    base = statistics.median(taken["without"])
    for way, times in taken.items():
        table.add_row(
            way, f"{statistics.median(times):.3f}", f"{statistics.median(times) / base:.2f}x"
        )
    Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
