"""The guard's cost for an ordinary system call: getppid(2) untraced, with a probe, with the guard.

usage: guard.py      (as root)

The figures are the fastest of fifteen runs each, in turns, because other programs only add to them.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infrasight.v1.stream_pb2 import Account, Container
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager

LOOP = Path(__file__).parent.parent / "tests/support/workloads/getppid_loop.c"
CALLS = 1_000_000
RUNS = 5
TURNS = 3


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


def fastest(program: Path) -> float:
    """The nanoseconds of one call."""
    return min(float(subprocess.check_output([program, str(CALLS)])) for _ in range(RUNS))


def recorded(program: Path, compat: bool) -> float:
    """The same while the probe `chmod` records, which has nothing to do."""
    recorder = Recorder(
        PluginManager.discover(["chmod"]), LoadSettings(compat=compat), "here", Nowhere()
    )
    recorder.attach("chmod", {})
    try:
        return fastest(program)
    finally:
        recorder.stop()


def main() -> None:
    """Prints the three, and what the guard adds."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "getppid_loop"
        subprocess.run(["cc", "-O2", "-o", program, LOOP], check=True)
        turns = [
            (fastest(program), recorded(program, False), recorded(program, True))
            for _ in range(TURNS)
        ]
    alone, probe, guard = (min(times) for times in zip(*turns, strict=True))
    print(
        f"getppid(2): {alone:.0f} ns; with a probe {probe:.0f} ns; "
        f"with the guard {guard:.0f} ns, {guard - probe:.0f} more"
    )


if __name__ == "__main__":
    main()
