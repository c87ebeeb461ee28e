"""One recording for each test file: loading the programs takes longer than the tests."""

from collections.abc import Iterator

import infrasight_probe_execve.plugin
import pytest
from infrasight_recording import Recording, recording


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recording]:
    """A running recording of execve; in the end every event is accounted for."""
    with recording("execve", infrasight_probe_execve.plugin) as running:
        yield running
    running.assert_accounted()
