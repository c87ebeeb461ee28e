"""The memory of the agent, the server and its store: at rest, and at most in a storm of opens.

usage: memory.py [SECONDS [RATE]]     (as root; a storm of 10 seconds with 100,000 opens a second)

At rest, an agent records one probe, `open`, and then all five. Then two processes open files. RSS
counts each page that a process uses; PSS divides the pages of libraries among the processes that
share them. The kernel's blocks are BPF maps that the agent maps, so they are part of its RSS and
PSS. The last line is the same as JSON, in bytes.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infrasight_testbed.process_memory import (
    MIB,
    memory_now,
    memory_of_maps,
    peak,
    reset_peak,
)
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.system import Process, running_system, until
from rich.console import Console
from rich.table import Table

WORKLOADS: Final = Path(__file__).parent.parent / "tests/support/workloads"
PROCESSES: Final = 2
SETTLE_SECONDS: Final = 10.0
RATE: Final = 100_000

Figures = dict[str, int]


def at_rest(pid: int) -> Figures:
    """Returns the memory of a process, in bytes."""
    rss, pss = memory_now(pid)
    return {"RSS": rss, "PSS": pss, "BPF maps": memory_of_maps(pid)}


def storm(program: Path, rate: int, seconds: int) -> int:
    """Opens files at a rate; returns how many."""
    command = [str(program), str(rate / PROCESSES), str(seconds)]
    pipe = subprocess.PIPE
    opening = [subprocess.Popen(command, stdout=pipe, text=True) for _ in range(PROCESSES)]
    return sum(int(process.communicate()[0]) for process in opening)


def settled(agent: Process) -> int:
    """Returns how many opens the agent has delivered or dropped so far, of all programs."""
    delivered = agent.metric('infrasight_events_acknowledged_total{probe="open"')
    return int(delivered) + dropped(agent)


def dropped(agent: Process) -> int:
    """Returns how many opens the agent has dropped so far."""
    return int(agent.metric('infrasight_events_dropped_total{probe="open"'))


def measure(folder: Path, rate: int, seconds: int) -> tuple[dict[str, Figures], dict[str, int]]:
    """Returns the figures of each process, and the opens made and the events dropped."""
    program = folder / "paced_opens"
    subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "paced_opens.c"], check=True)
    figures: dict[str, Figures] = {}
    with running_system(folder) as system:
        server = system.start_server()
        agent = system.start_agent("--probe", "open")
        time.sleep(SETTLE_SECONDS)
        figures["agent, 1 probe"] = at_rest(agent.pid)
        agent.stop()
        agent = system.start_agent(every_probe=True)
        time.sleep(SETTLE_SECONDS)
        pids = {"agent, 5 probes": agent.pid, "server": server.pid, "store": child_of(server.pid)}
        for name, pid in pids.items():
            figures[name] = at_rest(pid)
            reset_peak(pid)
        before = settled(agent)
        made = storm(program, rate, seconds)
        until(lambda: settled(agent) >= before + made, "every open is stored or dropped")
        for name, pid in pids.items():
            figures[name]["peak RSS"] = peak(pid)
        return figures, {"made": made, "dropped": dropped(agent)}


def show(figures: Mapping[str, Figures], rate: int) -> None:
    """Prints the table."""
    names = ("RSS", "PSS", "BPF maps", "peak RSS")
    table = Table("MiB", *names, title=f"memory at rest, and at most at {rate:,} opens/s")
    for process, found in figures.items():
        cells = [f"{found[name] / MIB:.0f}" if name in found else "-" for name in names]
        table.add_row(process, *cells)
    Console(width=max(Console().width, 100)).print(table)


def main() -> None:
    """Measures and prints."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else RATE
    with tempfile.TemporaryDirectory() as name:
        figures, events = measure(Path(name), rate, seconds)
    show(figures, rate)
    print(json.dumps({"benchmark": "memory", "rate": rate, **events, "bytes": figures}))


if __name__ == "__main__":
    main()
