"""From an event to a query that returns it, and to `infrasight tail` that prints it.

usage: latency.py [SECONDS [RATE...]]     (as root; 15 seconds for each rate by default)

This process opens a path that does not exist and notes the time: ten times a second beside two
processes that open files at a rate, and once a second, for twice the time, beside none. An agent
with all probes, a server with its embedded store and the tail run on the same CPUs. A filter of
thread names excludes what other programs do: it would be load, too. A query looks for the newest
opens about every 50 ms, so that the times of queries are up to that much too long. The last line
is the same as JSON.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
from attrs import asdict, define, field, frozen
from infrasight_core.cli.load_generator import thread_name
from infrasight_core.net.peer import Peer
from infrasight_core.net.server_client import ServerClient
from infrasight_testbed.system import BIN, Process, System, running_system
from rich.console import Console
from rich.table import Table

WORKLOADS: Final = Path(__file__).parent.parent / "tests/support/workloads"
RATES: Final = (0, 10_000, 100_000)
PROCESSES: Final = 2
LOOK_SECONDS: Final = 0.05
MARK_SECONDS: Final = 0.1
IDLE_MARK_SECONDS: Final = 1.0  # longer than the server waits for further rows
COMM: Final = "bench-latency"
FILTERS: Final = f'[filters.all]\ninclude_comm = ["{COMM}", "paced_opens"]\n'
LAST_SECONDS: Final = 10.0
WAYS: Final = ("SELECT", "tail")


@define
class Marks:
    """Opens at known times, and when each way showed them.

    Attributes:
        made: The time of each open in seconds, by its path.
        shown: The same for the query that returned it and the tail that printed it.
    """

    made: dict[str, float] = field(factory=dict)
    shown: dict[str, dict[str, float]] = field(factory=lambda: {way: {} for way in WAYS})

    def make(self) -> None:
        """Opens the next path."""
        path = f"/mark/{time.monotonic_ns()}"
        self.made[path] = time.monotonic()
        with thread_name(COMM), suppress(FileNotFoundError):
            Path(path).open()  # noqa: SIM115 - it fails

    def note(self, way: str, path: str, now: float) -> None:
        """Notes when a way showed a path."""
        if path in self.made:
            self.shown[way].setdefault(path, now)

    def clear(self) -> None:
        """Forgets the opens so far."""
        self.made = {}
        self.shown = {way: {} for way in WAYS}

    def waiting(self, way: str) -> list[float]:
        """Returns the times of the opens that a way has not shown yet."""
        return [made for path, made in list(self.made.items()) if path not in self.shown[way]]

    def delays(self, way: str) -> list[float]:
        """Returns the seconds until a way showed each open."""
        shown = self.shown[way]
        return [shown[path] - made for path, made in self.made.items() if path in shown]


@frozen
class Outcome:
    """The latencies at one rate, in seconds.

    Attributes:
        rate: The opens per second beside the marks.
        marks: The marks made.
        p50: The median by way.
        p99: The 99th percentile by way.
        not_shown: The marks that a way did not show.
        dropped: The opens that the agent dropped, of all programs.
        look_seconds: The median time between the ends of two queries.
    """

    rate: int
    marks: int
    p50: dict[str, float]
    p99: dict[str, float]
    not_shown: dict[str, int]
    dropped: int
    look_seconds: float


class Looker:
    """Looks for marks in the store, in its own thread, while the context lasts.

    Args:
        client: Asks the server.
        marks: The marks.
    """

    def __init__(self, client: ServerClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_until_end)
        self.looked: list[float] = []

    def __enter__(self) -> "Looker":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _look_until_end(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            if waiting := self._marks.waiting("SELECT"):
                self._look(time.monotonic() - min(waiting))

    def _look(self, seconds: float) -> None:
        """Asks for the marks of the last seconds."""
        since = time.time_ns() - int((seconds + 0.1) * 1e9)
        rows = self._client.query(
            f"SELECT path FROM open_events WHERE time > fromUnixTimestamp64Nano({since}, 'UTC') "
            f"AND pid = {os.getpid()} AND startsWith(path, '/mark/')"
        )
        paths = pa.concat_tables(rows)["path"].to_pylist()
        now = time.monotonic()
        self.looked.append(now)
        for path in paths:
            self._marks.note("SELECT", path.decode(), now)


def read_tail(lines: IO[str], marks: Marks) -> None:
    """Notes the marks that the tail prints, until it ends."""
    for line in lines:
        now = time.monotonic()
        marks.note("tail", json.loads(line)["path"], now)


@contextmanager
def tail(address: str, marks: Marks) -> Iterator[None]:
    """Runs `infrasight tail` for this process's events."""
    command: list[str | Path] = [
        BIN / "infrasight",
        "tail",
        "open",
        "--where",
        f"pid={os.getpid()}",
    ]
    command += ["--format", "json", "--server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=read_tail, args=(process.stdout, marks))
        reader.start()
        try:
            yield
        finally:
            process.terminate()
            reader.join()


@contextmanager
def opens(program: Path, rate: int, seconds: float) -> Iterator[None]:
    """Opens files at a rate for some seconds."""
    with ExitStack() as stack:
        for _ in range(PROCESSES if rate else 0):
            command = [str(program), str(rate / PROCESSES), str(round(seconds))]
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        yield


def dropped_by(agent: Process) -> int:
    """Returns how many opens the agent has dropped so far."""
    return int(agent.metric('infrasight_events_dropped_total{probe="open"'))


def measure(system: System, agent: Process, program: Path, rate: int, seconds: float) -> Outcome:
    """Makes marks beside opens at a rate."""
    interval = MARK_SECONDS if rate else IDLE_MARK_SECONDS
    if not rate:
        seconds *= 2
    marks = Marks()
    dropped = dropped_by(agent)
    client = ServerClient(Peer(system.address))
    with client, tail(system.address, marks), Looker(client, marks) as looker:
        while not marks.shown["tail"]:  # until it watches
            marks.make()
            time.sleep(MARK_SECONDS)
        with opens(program, rate, seconds + 1):
            time.sleep(1)
            marks.clear()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                marks.make()
                time.sleep(random.uniform(0.7, 1.3) * interval)
            looked = looker.looked[-int(seconds / LOOK_SECONDS) :]
        end = time.monotonic() + LAST_SECONDS
        while any(map(marks.waiting, WAYS)) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
    delays = {way: marks.delays(way) for way in WAYS}
    return Outcome(
        rate=rate,
        marks=len(marks.made),
        p50={way: statistics.median(delays[way]) for way in WAYS},
        p99={way: statistics.quantiles(delays[way], n=100)[-1] for way in WAYS},
        dropped=dropped_by(agent) - dropped,
        not_shown={way: len(marks.waiting(way)) for way in WAYS},
        look_seconds=statistics.median(b - a for a, b in pairwise(looked)),
    )


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints the table."""
    columns = [f"{way} {figure}" for way in WAYS for figure in ("p50", "p99", "not shown")]
    table = Table(
        "opens/s beside", "marks", *columns, "a query every", title="from an event to its row"
    )
    for each in outcomes:
        cells = []
        for way in WAYS:
            cells += [f"{each.p50[way]:.2f} s", f"{each.p99[way]:.2f} s", str(each.not_shown[way])]
        table.add_row(
            f"{each.rate:,}", str(each.marks), *cells, f"{each.look_seconds * 1000:.0f} ms"
        )
    Console(width=max(Console().width, 120)).print(table)


def main() -> None:
    """Measures at each rate and prints."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 15.0
    rates = tuple(map(int, sys.argv[2:])) or RATES
    outcomes = []
    with tempfile.TemporaryDirectory() as name, running_system(Path(name)) as system:
        program = Path(name) / "paced_opens"
        subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "paced_opens.c"], check=True)
        system.start_server()
        config = Path(name) / "agent.toml"
        config.write_text(FILTERS)
        agent = system.start_agent("--config", str(config))
        for rate in rates:
            outcomes.append(measure(system, agent, program, rate, seconds))
            print(outcomes[-1], file=sys.stderr)
    show(outcomes)
    print(json.dumps({"benchmark": "latency", "outcomes": [*map(asdict, outcomes)]}))


if __name__ == "__main__":
    main()
