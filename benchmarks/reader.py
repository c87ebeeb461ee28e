"""µs of CPU per event from the block to a record batch, compared with bcc's per-event callback.

Each round runs the same storm with both in turn; the figures are medians of the rounds.
The storm runs on the first CPU, the reader on the others. `dropped` counts the events for which
the kernel side had no room: on an idle machine none.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import infrasight_probe_execve.plugin
import infrasight_probe_sample.plugin
from attrs import frozen
from infrasight_core.agent.recorder import Recorder
from infrasight_core.kernel.loader import LoadSettings
from infrasight_recording import Recording, plugins_with
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WORKLOADS = HERE.parent / "tests/support/workloads"
COMMON = "time,duration_ns,cgroup_id,pid,tid,ppid,uid,gid,return_code,comm"


@frozen
class Storm:
    """A workload and its two recorders.

    Attributes:
        title: For the table.
        source: The workload's C file, which takes a count.
        count: How many calls in one round.
        probe: Our probe's name and plugin.
        peer: The peer's BPF source and the fields that its callback takes.
    """

    title: str
    source: str
    count: int
    probe: tuple[str, ModuleType]
    peer: tuple[str, str]


STORMS = (
    Storm(
        "openat(2), fails at once",
        "open_storm",
        1_000_000,
        ("sample", infrasight_probe_sample.plugin),
        ("open.bpf.c", f"{COMMON},flags,path"),
    ),
    Storm(
        "execve(2) of /bin/true",
        "exec_storm",
        4_000,
        ("execve", infrasight_probe_execve.plugin),
        ("exec.bpf.c", f"{COMMON},filename,first,second"),
    ),
)


@frozen
class Result:
    """One round: recorded events, dropped events, µs of CPU per event."""

    events: int
    dropped: int
    microseconds: float


def ours(storm: Storm, command: list[str]) -> Result:
    """Measures the recorder's thread, which drains, decodes, enriches and conforms."""
    name, module = storm.probe
    recorded = Recording()
    recorder = Recorder(plugins_with(name, module), LoadSettings(), "here", recorded)
    recorder.attach(name, {})
    recorder.start()
    clock = recorder.cpu_clock()
    time.sleep(0.3)
    began = time.clock_gettime(clock)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    time.sleep(0.3)
    busy = time.clock_gettime(clock) - began
    events = sum(delivery.batch.num_rows for delivery in recorded.deliveries)
    counts = recorder.stop()[name]
    return Result(events, counts.dropped, busy / events * 1e6)


def peer(storm: Storm, command: list[str]) -> Result:
    """Measures bcc's callback."""
    source, fields = storm.peer
    run = subprocess.run(
        [
            LoadSettings().python,
            HERE / "peers/bcc_callback.py",
            HERE / "peers" / source,
            fields,
            *command,
        ],
        env={
            "PATH": os.environ["PATH"],
            "BCC_KERNEL_SOURCE": str(HERE.parent / "infrasight-core/src/infrasight_core/bpf"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    report = json.loads(run.stdout)
    return Result(report["events"], report["lost"], report["cpu"] / report["events"] * 1e6)


def main(rounds: int) -> None:
    """Prints the table."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cpus[1:] or cpus)
    table = Table(
        "storm",
        "events",
        "ours µs",
        "dropped",
        "bcc callback µs",
        "dropped",
        "ratio",
        title="from block to record batch, CPU per event",
    )
    with tempfile.TemporaryDirectory() as folder:
        for storm in STORMS:
            program = f"{folder}/{storm.source}"
            subprocess.run(
                ["cc", "-O2", "-w", "-o", program, WORKLOADS / f"{storm.source}.c"], check=True
            )
            command = ["taskset", "-c", str(cpus[0]), program, str(storm.count)]
            mine = []
            theirs = []
            for number in range(rounds):
                mine.append(ours(storm, command))
                theirs.append(peer(storm, command))
                print(
                    f"{storm.title}, round {number + 1} of {rounds}: {mine[-1]} {theirs[-1]}",
                    file=sys.stderr,
                )
            a, b = (
                statistics.median(r.microseconds for r in results) for results in (mine, theirs)
            )
            dropped = [
                f"{sum(r.dropped for r in rs) / sum(r.dropped + r.events for r in rs):.1%}"
                for rs in (mine, theirs)
            ]
            table.add_row(
                storm.title,
                f"{storm.count:,}",
                f"{a:.3f}",
                dropped[0],
                f"{b:.2f}",
                dropped[1],
                f"{b / a:.0f}x",
            )
    Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
