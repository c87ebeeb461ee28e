"""Runs the tests in two stages and reports progress.

    python tools/run_tests.py [--all] [PYTEST ARGUMENT …]

1. Side by side: the test files are spread over a few more workers than the machine has cores,
   because most tests wait most of the time.
2. Alone: the tests marked `alone`, which load the whole machine or measure it, run one by one.

Tests marked `slow` run only with `--all` or if their file or folder is named, those marked `guest`
only with `--all`; an own `-m EXPRESSION` replaces that choice.
The last line counts the tests of both stages. The status is pytest's.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from attrs import define, field

ROOT = Path(__file__).resolve().parents[1]
SPARE_WORKERS = 2
NOTHING_COLLECTED = 5  # pytest's status
INTERRUPTED = 2


@define
class Outcome:
    """What the stages have reported so far.

    Attributes:
        counts: Tests by outcome.
        failures: The tests that failed or could not start.
        statuses: Each stage's status.
    """

    counts: dict[str, int] = field(
        factory=lambda: dict.fromkeys(("failed", "passed", "skipped"), 0)
    )
    failures: list[str] = field(factory=list)
    statuses: list[int] = field(factory=list)

    def add(self, report: Path) -> None:
        """Adds a stage's JUnit report."""
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            outcomes = {child.tag for child in case}
            if outcomes & {"failure", "error"}:
                self.counts["failed"] += 1
                self.failures.append(f"{case.get('file')}::{case.get('name')}")
            elif "skipped" in outcomes:
                self.counts["skipped"] += 1
            else:
                self.counts["passed"] += 1

    @property
    def status(self) -> int:
        """The status of the whole: the first stage's that is neither 0 nor merely empty."""
        for status in self.statuses:
            if status not in (0, NOTHING_COLLECTED):
                return status
        return 0 if 0 in self.statuses else NOTHING_COLLECTED


def announce(text: str) -> None:
    """Prints a line that says what comes next."""
    print(f"\n== {text}", flush=True)


def run_stage(outcome: Outcome, *arguments: str) -> None:
    """Runs pytest and adds what it reports."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-o", "console_output_style=classic"]
        command += ["-o", "junit_family=xunit1", f"--junitxml={report}"]
        command += ["--durations=10", "--durations-min=5", *arguments]
        outcome.statuses.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
        if report.exists():
            outcome.add(report)


@contextlib.contextmanager
def cluster_tools_being_built() -> Iterator[None]:
    """Builds the cluster tests' tools, if they are missing, at low priority while tests run."""
    script = ROOT / "tools" / "cluster_tools.py"
    located = subprocess.run(
        [sys.executable, script, "--where"], capture_output=True, text=True, check=True
    )
    if Path(located.stdout.strip()).exists():
        yield
        return
    command = ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "19", sys.executable, str(script)]
    build = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        build.kill()
        build.wait()


def selection(arguments: list[str]) -> tuple[str, list[str]]:
    """Which tests run, as an expression of markers, and the arguments that are left for pytest."""
    if arguments[:1] == ["--all"]:
        return "alone or not alone", arguments[1:]
    if "-m" in arguments:
        place = arguments.index("-m")
        return arguments[place + 1], arguments[:place] + arguments[place + 2 :]
    if any((ROOT / argument.partition("::")[0]).exists() for argument in arguments):
        return "not guest", arguments
    return "not guest and not slow", arguments


def main(arguments: list[str]) -> int:
    """Runs the stages; returns the status of the whole."""
    started = time.monotonic()
    markers, rest = selection(arguments)
    workers = (os.cpu_count() or 1) + SPARE_WORKERS
    outcome = Outcome()
    # Tests start commands while threads of a gRPC server run beside them: gRPC's handlers of fork()
    # would write their complaints to the command's stderr.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    with cluster_tools_being_built():
        announce(f"stage 1 of 2: test files side by side, on {workers} workers")
        side_by_side = ["-n", str(workers), "--dist", "loadgroup", "--no-loadscope-reorder"]
        run_stage(outcome, *side_by_side, *rest, "-m", f"({markers}) and not alone")
        if outcome.statuses[-1] == INTERRUPTED or (outcome.status and "-x" in rest):
            return outcome.status
        announce("stage 2 of 2: tests that need the whole machine, one after the other")
        run_stage(outcome, *rest, "-m", f"({markers}) and alone")
    seconds = time.monotonic() - started
    announce("both stages")
    for name in outcome.failures:
        print(f"FAILED {name}")
    counts = ", ".join(f"{count} {name}" for name, count in outcome.counts.items() if count)
    print(f" {counts or 'no tests ran'} in {seconds:.2f}s ".center(80, "="), flush=True)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
