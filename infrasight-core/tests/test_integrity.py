"""Columns written by the kernel: each event of a storm is one complete row, or is counted."""

import errno
import subprocess
from pathlib import Path

import infrasight_probe_sample.plugin
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from infrasight_core.kernel.filters import Filters
from infrasight_recording import Recording, recording

pytestmark = pytest.mark.alone  # the storm takes every CPU

PROCESSES = 6
COUNT = 100_000
ALL_EVENTS = PROCESSES * COUNT
STORM_ONLY = Filters(include_comm=("open_storm",))


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The load generator, linked statically: it opens nothing else."""
    program = tmp_path_factory.mktemp("storm") / "open_storm"
    source = Path(__file__).parents[2] / "tests/support/workloads/open_storm.c"
    subprocess.run(["cc", "-O2", "-static", "-o", program, source], check=True)
    return program


def record(storm: Path, options: dict[str, int]) -> tuple[Recording, set[int]]:
    """Runs the storm in several processes at once; returns what was recorded, and their pids."""
    with recording(
        "sample", infrasight_probe_sample.plugin, options, filters=STORM_ONLY
    ) as recorded:
        storms = []
        for _ in range(PROCESSES):
            storms.append(subprocess.Popen([storm, str(COUNT)], stdout=subprocess.DEVNULL))
        assert [process.wait() for process in storms] == [0] * PROCESSES
    return recorded, {process.pid for process in storms}


def numbers_by_pid(table: pa.Table) -> dict[int, list[int]]:
    """Asserts that each row's fields are of one event; returns the running numbers by pid."""
    parts = pc.extract_regex(
        pc.cast(table["path"], pa.string()), r"^/storm/(?P<pid>\d+)-(?P<number>\d+)$"
    ).combine_chunks()
    assert parts.null_count == 0
    pids, numbers = (pc.cast(parts.field(name), pa.uint32()) for name in ("pid", "number"))
    assert pc.all(pc.equal(pids, table["pid"])).as_py()
    assert pc.all(pc.equal(pids, table["tid"])).as_py()
    expected_flags = pc.bit_wise_and(numbers, pa.scalar(0xFF & ~0o100, pa.uint32()))
    flags = pc.bit_wise_and(table["flags"], pa.scalar(0xFF, pa.uint32()))
    assert pc.all(pc.equal(flags, expected_flags)).as_py()
    assert pc.all(pc.equal(table["return_code"], -errno.ENOENT)).as_py()
    comms = table["comm"].unify_dictionaries().combine_chunks().dictionary.to_pylist()
    assert comms == [b"open_storm"]
    by_pid: dict[int, list[int]] = {}
    for pid, number in zip(pids.to_pylist(), numbers.to_pylist(), strict=True):
        by_pid.setdefault(pid, []).append(number)
    return by_pid


def assert_exact(recorded: Recording, pids: set[int]) -> None:
    """Asserts that rows and drops add up to the events made, and that no row is wrong or double."""
    recorded.assert_accounted()
    table = recorded.table
    assert table.num_rows + recorded.counts.dropped == ALL_EVENTS
    by_pid = numbers_by_pid(table)
    assert by_pid.keys() <= pids
    for numbers in by_pid.values():
        assert len(set(numbers)) == len(numbers)
        assert max(numbers) < COUNT


def test_storm_events_are_complete_rows_or_counted(storm: Path) -> None:
    """Of 600,000 events at full rate, each is one complete row or counted as dropped.

    On an idle machine none is dropped; how many are on a busy one, the benchmarks show.
    """
    recorded, pids = record(storm, {})
    assert_exact(recorded, pids)
    assert recorded.table.num_rows > 0


def test_sequence_numbers_have_no_gap(storm: Path) -> None:
    """On each CPU the sequence runs from 0 without a gap, so that a missing row would show."""
    table = record(storm, {})[0].table
    for cpu in pc.unique(table["cpu"]).to_pylist():
        sequence = table.filter(pc.equal(table["cpu"], cpu))["sequence"].to_pylist()
        assert sequence == list(range(len(sequence)))


def test_overflowing_blocks_count_every_dropped_event(storm: Path) -> None:
    """Blocks of 256 slots overflow: what is dropped is counted, and the rows are complete."""
    recorded, pids = record(storm, {"slots": 256})
    assert recorded.counts.dropped > 0
    assert_exact(recorded, pids)
