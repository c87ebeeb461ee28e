"""From the bytes of blocks to rows, without root and without a kernel."""

from pathlib import Path

import pytest
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import Golden


@pytest.mark.parametrize("probe", ["accept", "connect"])
def test_a_kept_block_gives_the_rows_that_it_gave(probe: str) -> None:
    """Raw bytes that the program once wrote, to columns, to rows: the same, field by field, as a person has seen them."""
    golden = Golden(Path(__file__).parent / "golden" / probe)
    assert golden.rows(PluginManager.discover([probe]), probe) == golden.wanted()
