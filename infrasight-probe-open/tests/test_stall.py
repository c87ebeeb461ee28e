"""An agent that stands still for a while, such as one that the kernel does not schedule."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import infrasight_probe_open.plugin as probe
import pytest
from infrasight_core.kernel.attach_points import calls_of
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel

SOURCE = Path(__file__).parents[2] / "tests/support/workloads/calls.c"
HALF_A_SECOND = 75_000  # opens on one of two CPUs, of 300,000 a second


@pytest.fixture
def opens() -> Iterator[Path]:
    """A program that opens files; its path has less than the 32 bytes that a heap has for each."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        program = Path(folder) / "calls"
        subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
        yield program


def test_block_holds_the_opens_of_half_a_second(opens: Path) -> None:
    """While no agent reads the blocks, 75,000 opens on one CPU are all written, none is dropped."""
    kernel = running_kernel()
    memory = LoadSettings().memory // 2 * kernel.cpus  # for a block as on two CPUs
    settings = LoadSettings(memory=memory)
    program = probe.load_bpf(kernel, {})
    loaded = load("open", program, kernel, settings)
    dispatcher = Dispatcher(kernel, settings)
    try:
        dispatcher.attach(loaded, calls_of(program))
        cpu = str(max(os.sched_getaffinity(0)))
        command = ["taskset", "-c", cpu, str(opens), "open", str(HALF_A_SECOND)]
        command.append("/usr/lib/os-release")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        counts = loaded.blocks.counts()
    finally:
        dispatcher.detach(loaded)
        loaded.close()
    assert counts.submitted >= HALF_A_SECOND
    assert counts.dropped == 0
