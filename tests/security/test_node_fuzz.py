"""Mutated messages of agents and readers neither end a process nor leave a wrong row."""

from pathlib import Path

import pytest
from infrasight_testbed.fuzz.campaign import Campaign
from infrasight_testbed.process_memory import MIB


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "mutations",
    [2_000, pytest.param(20_000, marks=pytest.mark.slow(reason="ten times as many take longer"))],
)
def test_mutated_messages_do_no_harm(tmp_path: Path, mutations: int) -> None:
    """Of 20,000 mutated messages, none ends a task, a process or a handler, or is stored wrongly.

    Each gets an answer, or ends its own stream. `make fuzz` sends as many as are wanted.
    """
    result = Campaign(mutations).run(tmp_path, mutations)
    assert result.mutations == mutations
    assert result.crashes == []
    assert (result.hangs, result.wrong_rows, result.missing_rows) == (0, 0, 0)
    assert result.stored_rows > 0
    server, store, control = result.peak_bytes
    assert max(server, control) < 600 * MIB
    assert store < 2000 * MIB
