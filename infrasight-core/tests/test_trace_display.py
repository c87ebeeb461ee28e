"""What `infrasight trace` shows, and in which order."""

import json
import time

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from infrasight_core.agent.sink import Delivery
from infrasight_core.cli.live_view import Lines
from infrasight_core.cli.trace_display import Display
from infrasight_core.cli.where import Where
from infrasight_core.plugin.schema import EventSchema

NOW = time.time_ns()


def delivery(schema: EventSchema, probe: str, pids: dict[int, float]) -> Delivery:
    """A batch with the pids of events and how many seconds ago they happened."""
    times = [NOW - int(seconds * 1e9) for seconds in pids.values()]
    columns = {
        "time": pa.array(times, pa.timestamp("ns", "UTC")),
        "pid": pa.array(list(pids), pa.uint32()),
        "uid": pa.array([0] * len(pids), pa.uint32()),
    }
    return Delivery("id", probe, schema, pa.RecordBatch.from_pydict(columns))


def shown(batches: list[tuple[str, pa.Table]], capsys: pytest.CaptureFixture[str]) -> list[int]:
    """The pids in the order of the JSON lines."""
    Lines().add(batches)
    return [json.loads(line)["pid"] for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def schema() -> EventSchema:
    """A schema; the display does not look at it."""
    return sample.schema()


def test_display_sorts_rows_of_several_cpus_and_probes(
    schema: EventSchema, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of different CPUs and probes: their rows are one sequence in order of time."""
    display = Display(Where())
    display.put(delivery(schema, "open", {1: 9, 4: 6, 5: 5}))
    display.put(delivery(schema, "open", {2: 8, 6: 4}))
    display.put(delivery(schema, "execve", {3: 7}))
    display.receive(1)
    assert shown(display.due(), capsys) == [1, 2, 3, 4, 5, 6]
    assert display.events == 6


def test_display_holds_rows_that_others_may_precede(
    schema: EventSchema, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of this moment waits for earlier rows of other CPUs; at the end nothing is left."""
    display = Display(Where(), hold_seconds=3600)
    display.put(delivery(schema, "open", {1: 9000, 3: 0}))
    display.receive(1)
    assert shown(display.due(), capsys) == [1]
    display.put(delivery(schema, "open", {2: 8}))
    assert shown(display.rest(), capsys) == [2, 3]
    assert display.rest() == []


def test_display_releases_rows_after_the_clock_was_set_back(
    schema: EventSchema, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row from the future waits no longer than any other."""
    display = Display(Where())
    display.put(delivery(schema, "open", {1: -3600}))
    display.receive(1)
    deadline = time.monotonic() + 30
    batches: list[tuple[str, pa.Table]] = []
    while not batches and time.monotonic() < deadline:
        batches = display.due()
    assert shown(batches, capsys) == [1]


def test_display_counts_what_the_terminal_is_too_slow_for(schema: EventSchema) -> None:
    """More batches than may wait: the rest is counted as dropped, by probe and reason."""
    display = Display(Where())
    for _ in range(300):
        display.put(delivery(schema, "open", {1: 0, 2: 0}))
    (dropped,) = display.dropped_events.items()
    assert dropped[0] == "open: display_full"
    display.receive(0)
    assert display.events + dropped[1] == 600
