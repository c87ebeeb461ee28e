"""From the command to recording with all five probes: an agent's first and second start.

usage: start.py [ROUNDS]      (as root; 5 rounds by default)

Each round starts an agent with an empty folder of compiled programs, and then again with what the
first start stored there. The figures are medians: seconds until the first probe records and until
all do, and the CPU time of the agent and its compilers until it has stopped again. The last
line is the same as JSON.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infrasight_testbed.ports import free_port
from infrasight_testbed.process_cpu import cpu_seconds_of_children
from infrasight_testbed.system import BIN
from rich.console import Console
from rich.table import Table

PROBES = ("open", "execve", "chmod", "connect", "accept")
STARTS = ("first", "second")
FIGURES = ("first probe", "all probes", "CPU")


def start(cache: Path) -> dict[str, float]:
    """Starts and stops an agent; returns its figures in seconds."""
    command: list[str | Path] = [BIN / "infrasight", "agent", "--program-cache", cache]
    command += ["--spool", "none"]
    command += ["--server", "unix:/nowhere", "--status-listen", f"127.0.0.1:{free_port()}"]
    for probe in PROBES:
        command += ["--probe", probe]
    figures: dict[str, float] = {}
    cpu = cpu_seconds_of_children()
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        for line in agent.stderr:
            event = json.loads(line)["event"] if line.startswith("{") else ""
            if event == "probe attached":
                figures.setdefault("first probe", time.monotonic() - began)
            if event == "recording":
                figures["all probes"] = time.monotonic() - began
                break
        os.kill(agent.pid, signal.SIGTERM)
        agent.stderr.read()
    figures["CPU"] = cpu_seconds_of_children() - cpu
    return figures


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    measured: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for which in STARTS:
                for name, seconds in start(Path(folder) / "cache").items():
                    measured.setdefault((which, name), []).append(seconds)
    table = Table("start", *FIGURES, title="an agent's start, seconds")
    result: dict[str, dict[str, float]] = {}
    for which in STARTS:
        result[which] = {name: statistics.median(measured[which, name]) for name in FIGURES}
        table.add_row(which, *(f"{median:.2f}" for median in result[which].values()))
    Console().print(table)
    print(json.dumps({"benchmark": "start", "rounds": rounds, "seconds": result}))


if __name__ == "__main__":
    main()
