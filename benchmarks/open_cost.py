"""The CPU time that recording adds to an open() and close(), compared with other tracers.

Each round runs the same loop untraced, with empty BPF programs at openat's entry and exit (the
least that tracing can cost), with the probe `open` and its reader, and with bpftrace's opensnoop.bt
that writes to a file. The figures are medians of the rounds; `added` is the difference to untraced.
The loop runs on the first CPU, readers on the others.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import infrasight_probe_open.plugin
from attrs import define
from infrasight_core.agent.recorder import Recorder
from infrasight_core.kernel.loader import LoadSettings
from infrasight_recording import Recording, plugins_with
from infrasight_testbed.system import until
from infrasight_testbed.tracers import tracepoint_programs
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WORKLOADS = HERE.parent / "tests/support/workloads"
SHALLOW = Path("/etc/passwd")
CALLS = 20_000
LOOPS = 11
TRIES = 50
PATIENCE = 60.0
TITLE = "open() and close(): CPU of the traced program, by the path's components"
OPENSNOOP = "/usr/sbin/opensnoop.bt"


@define
class Watched:
    """A tracer's count of loops, its share of dropped events, and its reader's µs per event."""

    loops: int = 0
    dropped: float = 0.0
    reader: float = 0.0


@contextmanager
def untraced(_: Path) -> Iterator[Watched]:
    """Untraced."""
    yield Watched()


@contextmanager
def empty(_: Path) -> Iterator[Watched]:
    """Empty BPF programs."""
    environment = {
        "PATH": os.environ["PATH"],
        "BCC_KERNEL_SOURCE": str(HERE.parent / "infrasight-core/src/infrasight_core/bpf"),
    }
    command = [LoadSettings().python, HERE / "peers/bcc_attached.py", HERE / "peers/empty.bpf.c"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    ) as peer:
        assert peer.stdin
        assert peer.stdout
        assert peer.stdout.readline() == b"attached\n"
        yield Watched()
        peer.stdin.close()


@contextmanager
def ours(_: Path) -> Iterator[Watched]:
    """The probe and its reader."""
    recorded = Recording()
    watched = Watched()
    recorder = Recorder(
        plugins_with("open", infrasight_probe_open.plugin),
        LoadSettings(),
        "here",
        recorded,
    )
    recorder.attach("open", {})
    recorder.start()
    clock = recorder.cpu_clock()
    began = time.clock_gettime(clock)
    yield watched
    time.sleep(0.3)
    busy = time.clock_gettime(clock) - began
    events = sum(delivery.batch.num_rows for delivery in recorded.deliveries)
    counts = recorder.stop()["open"]
    watched.dropped = counts.dropped / counts.seen
    watched.reader = busy / events * 1e6


@contextmanager
def bpftrace(opened: Path) -> Iterator[Watched]:
    """Debian's opensnoop.bt, which writes to a file."""
    watched = Watched()
    with tempfile.NamedTemporaryFile() as output:
        file = Path(output.name)
        with subprocess.Popen(
            ["bpftrace", "-o", file, OPENSNOOP],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as tracer:
            until(lambda: b"PATH" in file.read_bytes(), "bpftrace traces")
            yield watched
            tracer.send_signal(signal.SIGINT)
        came = sum(line.split()[1::3] == [b"open_close", bytes(opened)] for line in output)
    watched.dropped = 1 - came / (watched.loops * CALLS)


WAYS = {"untraced": untraced, "empty": empty, "ours": ours, "bpftrace": bpftrace}


def loop(command: list[str], watched: Watched) -> float:
    """The program's CPU time in ns per loop, of a run in which no other tracer came or went."""
    for _ in range(TRIES):
        before = tracepoint_programs()
        watched.loops += 1
        took = float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        if tracepoint_programs() == before:
            return took
    raise SystemExit(
        "other tracers on this machine start and stop all the time: nothing can be measured"
    )


def alone() -> None:
    """Waits until no other program traces; prints a warning if one still does."""
    end = time.monotonic() + PATIENCE
    while others := tracepoint_programs():
        if time.monotonic() > end:
            print(
                f"{len(others)} programs of other tracers are attached: `added` is too small",
                file=sys.stderr,
            )
            return
        time.sleep(0.1)


def measure(
    rounds: int, program: list[str], path: Path, title: str
) -> tuple[dict[str, float], dict[str, Watched]]:
    """Measures every tracer in every round; returns medians."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    seen: dict[str, list[Watched]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way, tracing in WAYS.items():
            alone()
            with tracing(path) as watched:
                times[way] += [
                    loop([*program, str(path), str(CALLS)], watched) for _ in range(LOOPS)
                ]
            seen[way].append(watched)
        progress = ", ".join(
            f"{way} {statistics.median(times[way][-LOOPS:]):.0f} ns" for way in WAYS
        )
        print(f"{title}, round {number + 1} of {rounds}: {progress}", file=sys.stderr)
    fields = ("dropped", "reader")
    watched_by = {
        way: Watched(0, *(statistics.median(getattr(w, f) for w in seen[way]) for f in fields))
        for way in WAYS
    }
    return {way: statistics.median(found) for way, found in times.items()}, watched_by


def main(rounds: int) -> None:
    """Prints the table."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cpus[1:] or cpus)
    ratios = ("added: ours/empty", "added: bpftrace/ours")
    table = Table(
        "components", *WAYS, *ratios, "ours dropped", "bpftrace dropped", "reader", title=TITLE
    )
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        program = f"{folder}/open_close"
        subprocess.run(["cc", "-O2", "-o", program, WORKLOADS / "open_close.c"], check=True)
        deep = Path(folder, "a/b/c/d/e/file")
        deep.parent.mkdir(parents=True)
        deep.touch()
        for path in (SHALLOW, deep):
            title = f"a path of {len(path.parts) - 1} components"
            taken, seen = measure(rounds, ["taskset", "-c", str(cpus[0]), program], path, title)
            added = {way: taken[way] - taken["untraced"] for way in WAYS}
            times = [
                f"{added[a] / added[b]:.1f}x" for a, b in (("ours", "empty"), ("bpftrace", "ours"))
            ]
            dropped = [f"{seen[way].dropped:.1%}" for way in ("ours", "bpftrace")]
            table.add_row(
                str(len(path.parts) - 1),
                *(f"{taken[way]:.0f} ns" for way in WAYS),
                *times,
                *dropped,
                f"{seen['ours'].reader:.2f} µs",
            )
    Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
