"""Decoding of golden blocks, without root and without a kernel."""

from pathlib import Path

from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import GoldenBlocks


def test_golden_blocks_give_the_expected_rows() -> None:
    """Recorded bytes decode to the reviewed rows, field by field."""
    golden = GoldenBlocks(Path(__file__).parent / "golden")
    assert golden.rows(PluginManager.discover(["chmod"]), "chmod") == golden.expected_rows()
