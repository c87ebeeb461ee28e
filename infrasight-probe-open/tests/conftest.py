"""One recording for each test file: loading the programs takes longer than the tests."""

from collections.abc import Callable, Iterator
from typing import Any

import infrasight_probe_open.plugin
import pytest
from infrasight_recording import Recording, recording
from infrasight_testbed.syscalls import in_child

Record = Callable[..., tuple[list[dict[str, Any]], Any]]


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recording]:
    """A running recording of open; in the end every event is accounted for."""
    with recording("open", infrasight_probe_open.plugin) as running:
        yield running
    running.assert_accounted()


@pytest.fixture
def record(recorded: Recording) -> Record:
    """Does some work in a child; returns the child's rows, by time, and the work's result."""

    def record_child(work: Callable[[], Any], uid: int = 0) -> tuple[list[dict[str, Any]], Any]:
        recorded.clear()
        pid, result = in_child(work, uid)
        recorded.wait("open")
        return recorded.rows_of(pid), result

    return record_child
