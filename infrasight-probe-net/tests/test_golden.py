"""Decoding of golden blocks, without root and without a kernel."""

from pathlib import Path

import pytest
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import GoldenBlocks


@pytest.mark.parametrize("probe", ["accept", "connect"])
def test_golden_blocks_give_the_expected_rows(probe: str) -> None:
    """Recorded bytes decode to the reviewed rows, field by field."""
    golden = GoldenBlocks(Path(__file__).parent / "golden" / probe)
    assert golden.rows(PluginManager.discover([probe]), probe) == golden.expected_rows()
