"""From the bytes of a block to rows, without root and without a kernel."""

from pathlib import Path

from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import Golden


def test_a_kept_block_gives_the_rows_that_it_gave() -> None:
    """Raw bytes that the program once wrote, to columns, to rows: the same, field by field, as a person has seen them."""
    golden = Golden(Path(__file__).parent / "golden")
    assert golden.rows(PluginManager.discover(["open"]), "open") == golden.wanted()
