"""One trial: an agent, a server and a ClickHouse server, numbered events, and faults."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from infrasight_testbed.clickhouse import ClickHouseServer
from infrasight_testbed.system import Process, System, running_system, until

WORKLOADS: Final = Path(__file__).parents[2] / "workloads"
PROCESSES: Final = 2
PAUSE_SECONDS: Final = (0.3, 2.0)
"""The least and the most between the end of a fault and the next one."""
OUTAGE_SECONDS: Final = (0.0, 2.0)
"""How long a killed process is gone, or a frozen one stands still."""
STORE_SECONDS: Final = 300.0


@frozen
class Result:
    """The account of a trial.

    Attributes:
        made: The events made.
        seconds: How long that took.
        rows: The rows stored.
        dropped: The events that the agent counted as dropped.
        doubled: The rows stored a second time.
        faults: How often each fault occurred.
    """

    made: int
    seconds: float
    rows: int
    dropped: int
    doubled: int
    faults: Mapping[str, int]

    @property
    def missing(self) -> int:
        """Events that are neither rows nor counted as dropped."""
        return self.made - (self.rows - self.doubled) - self.dropped

    @property
    def is_exact(self) -> bool:
        """Whether every event is one row or counted as dropped."""
        return not self.missing and not self.doubled


class Trial:
    """Kills and freezes at random moments.

    Args:
        seed: Equal seeds give equal faults, though not at equal moments.
        report: Called with each line of progress.
    """

    def __init__(self, seed: int, report: Callable[[str], object]) -> None:
        self._random = random.Random(seed)
        self._report = report
        self._done: Counter[str] = Counter()

    def run(self, folder: Path, rate: int, faults: int) -> Result:
        """Runs the trial.

        Args:
            folder: For data, logs and the program that makes the events.
            rate: Events a second.
            faults: How often each fault occurs.
        """
        folder.chmod(0o711)
        program = folder / "paced_opens"
        subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "paced_opens.c"], check=True)
        settings = folder / "agent.toml"
        settings.write_text('probes = ["open"]\n[filters.all]\ninclude_comm = ["paced_opens"]\n')
        self._clickhouse = ClickHouseServer(folder / "clickhouse").start()
        try:
            with running_system(folder, self._clickhouse.url) as system:
                return self._run(system, program, settings, rate, faults)
        finally:
            self._clickhouse.kill()

    def _run(self, system: System, program: Path, settings: Path, rate: int, faults: int) -> Result:
        self._system = system
        self._server = system.start_server()
        agent = system.start_agent("--config", str(settings))
        planned = [*self._faults()] * faults
        self._random.shuffle(planned)
        command = [str(program), str(rate / PROCESSES), "86400"]
        began = time.monotonic()
        opening = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
        ]
        try:
            for number, name in enumerate(planned, 1):
                time.sleep(self._random.uniform(*PAUSE_SECONDS))
                self._report(f"{number} of {len(planned)}: {name}")
                self._faults()[name](self._random.uniform(*OUTAGE_SECONDS))
                self._done[name] += 1
        finally:
            for process in opening:
                process.send_signal(signal.SIGTERM)
        made = sum(int(process.communicate()[0]) for process in opening)
        took = time.monotonic() - began
        pids = [process.pid for process in opening]
        return self._account(agent, pids, made, took)

    def _faults(self) -> Mapping[str, Callable[[float], None]]:
        return {
            "server killed": self._kill_server,
            "server frozen": self._freeze_server,
            "ClickHouse killed": self._kill_clickhouse,
            "ClickHouse frozen": self._freeze_clickhouse,
        }

    def _kill_server(self, seconds: float) -> None:
        self._server.kill()
        time.sleep(seconds)
        self._server = self._system.start_server()

    def _freeze_server(self, seconds: float) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self._server.pid, signal.SIGCONT)

    def _kill_clickhouse(self, seconds: float) -> None:
        self._clickhouse.kill()
        time.sleep(seconds)
        self._clickhouse.start()

    def _freeze_clickhouse(self, seconds: float) -> None:
        self._clickhouse.pause()
        time.sleep(seconds)
        self._clickhouse.resume()

    def _account(self, agent: Process, pids: list[int], made: int, seconds: float) -> Result:
        """Waits until every event is a row or counted, and counts."""
        until(self._server.ready, "the server is ready again", STORE_SECONDS)
        until(
            lambda: self._count(pids)["n"] + _dropped(agent) >= made,
            "every event is a row or dropped",
            STORE_SECONDS,
        )
        found = self._count(pids)
        return Result(
            made=made,
            seconds=seconds,
            rows=found["n"],
            dropped=_dropped(agent),
            doubled=found["n"] - found["different"],
            faults=dict(self._done),
        )

    def _count(self, pids: list[int]) -> dict[str, int]:
        [row] = self._system.query(
            "SELECT count() AS n, uniqExact(path) AS different FROM open_events "
            f"WHERE pid IN ({', '.join(map(str, pids))}) AND startsWith(path, '/paced/')"
        )
        return {name: int(value) for name, value in row.items()}


def _dropped(agent: Process) -> int:
    """The events of `open` that the agent has counted as dropped."""
    return int(agent.metric('infrasight_events_dropped_total{probe="open"'))
