"""Columns that are born in the kernel: every event of every process is there, once, whole; or it is counted."""

import errno
import subprocess
from pathlib import Path

import infrasight_probe_sample.plugin
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from infrasight_recording import Recording, recording

PROCESSES, COUNT = 6, 100_000


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The load generator, compiled."""
    program = tmp_path_factory.mktemp("storm") / "open_storm"
    source = Path(__file__).parents[2] / "tests/support/workloads/open_storm.c"
    subprocess.run(["cc", "-O2", "-Wno-unused-result", "-o", program, source], check=True)
    return program


def record(storm: Path, options: dict[str, int]) -> tuple[Recording, set[int]]:
    """Runs the storm in several processes at once under the probe `sample`."""
    with recording("sample", infrasight_probe_sample.plugin, options) as kept:
        storms = [
            subprocess.Popen([storm, str(COUNT)], stdout=subprocess.DEVNULL)
            for _ in range(PROCESSES)
        ]
        assert [process.wait() for process in storms] == [0] * PROCESSES
    return kept, {process.pid for process in storms}


def assert_whole(mine: pa.Table) -> dict[int, list[int]]:
    """Sees that each row's fields are of one event; returns the running numbers that came, by pid."""
    parts = pc.extract_regex(
        pc.cast(mine["path"], pa.string()), r"^/storm/(?P<pid>\d+)-(?P<number>\d+)$"
    ).combine_chunks()
    assert parts.null_count == 0
    pids, numbers = (pc.cast(parts.field(name), pa.uint32()) for name in ("pid", "number"))
    assert pc.all(pc.equal(pids, mine["pid"])).as_py()
    assert pc.all(pc.equal(pids, mine["tid"])).as_py()
    wanted_flags = pc.bit_wise_and(numbers, pa.scalar(0xFF & ~0o100, pa.uint32()))
    assert pc.all(
        pc.equal(pc.bit_wise_and(mine["flags"], pa.scalar(0xFF, pa.uint32())), wanted_flags)
    ).as_py()
    assert pc.all(pc.equal(mine["return_code"], -errno.ENOENT)).as_py()
    assert set(mine["comm"].unify_dictionaries().combine_chunks().dictionary.to_pylist()) >= {
        b"open_storm"
    }
    by_pid: dict[int, list[int]] = {}
    for pid, number in zip(pids.to_pylist(), numbers.to_pylist(), strict=True):
        by_pid.setdefault(pid, []).append(number)
    return by_pid


def of_storms(table: pa.Table, pids: set[int]) -> pa.Table:
    """The storms' own rows, without what the loader of each process opened."""
    mine = pc.and_(
        pc.is_in(table["pid"], pa.array(pids, pa.uint32())),
        pc.starts_with(table["path"], b"/storm/"),
    )
    return table.filter(mine)


def test_every_event_of_every_process_is_there_once_and_whole(storm: Path) -> None:
    """Six processes on all CPUs at full rate: 600,000 events, none lost, none twice, each row's fields of one event."""
    kept, pids = record(storm, {})
    assert kept.counts.dropped == 0
    assert kept.drops == {}
    assert kept.table.num_rows == kept.counts.seen == kept.counts.read
    by_pid = assert_whole(of_storms(kept.table, pids))
    assert by_pid.keys() == pids
    for numbers in by_pid.values():
        assert sorted(numbers) == list(range(COUNT))


def test_sequence_numbers_have_no_gap(storm: Path) -> None:
    """On each CPU the sequence runs from 0 without a gap, so that a missing row would show."""
    table = record(storm, {})[0].table
    for cpu in pc.unique(table["cpu"]).to_pylist():
        sequence = table.filter(pc.equal(table["cpu"], cpu))["sequence"].to_pylist()
        assert sequence == list(range(len(sequence)))


def test_what_overflows_is_counted_to_the_event(storm: Path) -> None:
    """Blocks of 256 slots under the same storm: rows + dropped = seen, and every row that came is whole."""
    kept, pids = record(storm, {"slots": 256})
    counts = kept.counts
    assert counts.dropped > 0
    assert sum(kept.drops.values()) == counts.dropped
    assert kept.table.num_rows == counts.submitted == counts.seen - counts.dropped
    assert counts.seen >= PROCESSES * COUNT
    for numbers in assert_whole(of_storms(kept.table, pids)).values():
        assert len(set(numbers)) == len(numbers)
