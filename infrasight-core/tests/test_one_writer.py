"""A block has one writer at a time: no task and no interrupt writes into another's row."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from infrasight_core import BpfProgram, SystemCall, Tracepoint
from infrasight_core.kernel.attach_points import calls_of
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, load, running_kernel
from infrasight_core.plugin.columns import Columns
from infrasight_testbed.system import until

WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"
CALL = SystemCall("getppid", exit="exit_getppid")
TIMER = Tracepoint("timer_expired", "timer:hrtimer_expire_entry")
PROCESSES = 4


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that calls getppid(2)."""
    program = tmp_path_factory.mktemp("loop") / "calls"
    source = WORKLOADS / "calls.c"
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    return program


@contextmanager
def recording(*points: SystemCall | Tracepoint) -> Iterator[LoadedProbe]:
    """The slow writer with these attach points."""
    kernel = running_kernel()
    program = BpfProgram(WORKLOADS / "slow_writer.bpf.c", attach=points, slots=65536)
    loaded = load("slow", program, kernel, LoadSettings())
    dispatcher = Dispatcher(kernel, LoadSettings())
    try:
        dispatcher.attach(loaded, calls_of(program))
        yield loaded
    finally:
        dispatcher.detach(loaded)
        loaded.close()


@contextmanager
def calling(loop: Path, processes: int) -> Iterator[list[int]]:
    """Processes that share a CPU and call without end. Yields their numbers."""
    cpu = str(max(os.sched_getaffinity(0)))
    command = ["taskset", "-c", cpu, str(loop), "getppid", "1000000000"]
    running = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def drained(loaded: LoadedProbe) -> Columns:
    """The rows so far; asserts that each was written by one program."""
    columns = loaded.blocks.drain()
    first = columns.fixed["first"]
    is_timer = columns.fixed["is_timer"] == 1
    assert np.array_equal(first, columns.fixed["last"])
    assert np.array_equal(is_timer, first == 1)
    assert np.array_equal(first[~is_timer] >> 32, columns.fixed["pid"][~is_timer])
    return columns


def switches(pid: int) -> int:
    """How often the scheduler has preempted a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("nonvoluntary_ctxt_switches:")[1].split()[0])


def test_interrupt_writes_no_row_into_another(loop: Path) -> None:
    """Timers expire while rows are written: their programs are skipped and counted each time."""
    with recording(CALL, TIMER) as loaded, calling(loop, 1):
        until(lambda: drained(loaded) is not None and loaded.skipped_runs() >= 20, "interrupts")
        timers = 0

        def has_rows_of_both() -> bool:
            nonlocal timers
            timers += int(np.count_nonzero(drained(loaded).fixed["is_timer"]))
            return timers > 0

        until(has_rows_of_both, "timers that expire outside of rows are rows")


def test_task_is_not_preempted_while_it_writes_a_row(loop: Path) -> None:
    """Processes take a CPU from each other, never within a row: else the other's is skipped."""
    with recording(CALL) as loaded, calling(loop, PROCESSES) as pids:
        seen: set[int] = set()

        def have_alternated() -> bool:
            seen.update(drained(loaded).fixed["pid"].tolist())
            return set(pids) <= seen and all(switches(pid) > 20 for pid in pids)

        until(have_alternated, "the processes alternate")
        assert loaded.skipped_runs() == 0
