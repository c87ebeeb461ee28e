"""Server and ClickHouse are killed and frozen under load: every event is stored exactly once."""

from pathlib import Path

import pytest
from infrasight_testbed.soak.trial import Trial


@pytest.mark.alone
def test_faults_under_load_cost_and_double_nothing(tmp_path: Path) -> None:
    """Each fault twice, at random moments under 2,000 events a second; `make soak` does more."""
    result = Trial(seed=1, report=print).run(tmp_path, rate=2_000, faults=2)
    assert set(result.faults.values()) == {2}
    assert result.made > 10_000
    assert (result.missing, result.doubled, result.dropped) == (0, 0, 0)
