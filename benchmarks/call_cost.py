"""What recording costs the system calls that no probe handles, and those that one does.

usage: call_cost.py [ROUNDS]      (as root; 5 rounds by default)

Each round runs getppid(2) and open() with close(): untraced, while `chmod` is recorded, which
handles neither, and while `open` is. The figures are medians. A run in which another tracer of this
machine was loaded does not count.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infrasight.v1.stream_pb2 import Account, Container
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager
from infrasight_testbed.tracers import tracepoint_programs

WORKLOADS = Path(__file__).parent.parent / "tests/support/workloads"
LOOPS = {"getppid_loop": ["300000"], "open_close": ["/etc/hostname", "50000"]}
STATES = ("", "chmod", "open")  # the recorded probe
RUNS = 5
PATIENCE = 300.0  # seconds to wait for other tracers to end


class Nowhere(Sink):
    """A sink that discards everything."""

    def put(self, delivery: Delivery) -> bool:
        """Discards the batch."""
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Discards the account."""

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Discards the count."""

    def publish(self, containers: Sequence[Container]) -> None:
        """Discards containers."""


def own_programs() -> set[int]:
    """The ids of the programs that this process holds."""
    found = set()
    for entry in Path("/proc/self/fdinfo").iterdir():
        try:
            text = entry.read_text()
        except OSError:  # the descriptor of the folder itself
            continue
        found |= {int(line.split()[1]) for line in text.splitlines() if line.startswith("prog_id:")}
    return found


def time_of(command: list[str]) -> float:
    """The CPU time of one round of a loop, in nanoseconds, of a run without other tracers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if tracepoint_programs() - own_programs():
            time.sleep(0.02)
            continue
        took = float(subprocess.check_output(command))
        if not tracepoint_programs() - own_programs():
            return took
    raise SystemExit("other tracers run on this machine all the time: nothing can be measured")


@contextmanager
def recorded(probe: str) -> Iterator[None]:
    """Records with a probe; with none if it is empty."""
    if not probe:
        yield
        return
    settings = LoadSettings(own_work=False)
    recorder = Recorder(PluginManager.discover([probe]), settings, "here", Nowhere())
    recorder.attach(probe, {})
    recorder.start()
    try:
        yield
    finally:
        recorder.stop()


def main() -> None:
    """Prints the medians, and what is added to the untraced call."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for loop in LOOPS:
            program = f"{folder}/{loop}"
            subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / f"{loop}.c"], check=True)
        for _ in range(rounds):
            for probe in STATES:
                with recorded(probe):
                    for loop, arguments in LOOPS.items():
                        taken = times.setdefault((loop, probe), [])
                        command = ["taskset", "-c", "0", f"{folder}/{loop}", *arguments]
                        taken += [time_of(command) for _ in range(RUNS)]
    for (loop, probe), taken in times.items():
        added = statistics.median(taken) - statistics.median(times[loop, ""])
        state = f"with {probe}" if probe else "untraced"
        print(f"{loop}: {state} {statistics.median(taken):.0f} ns, {added:.0f} more")


if __name__ == "__main__":
    main()
