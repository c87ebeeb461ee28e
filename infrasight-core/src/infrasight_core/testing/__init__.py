"""The testing kit for probe authors: the contract of every probe, and golden blocks. Needs pytest.

Subclass `ProbeContract` to test a probe against the contract. Use `save_golden_blocks` and
`GoldenBlocks` to test its decoding without root and without a kernel.
"""

import pytest

# Failed assertions of the contract then show the compared values, as those of a test module do.
pytest.register_assert_rewrite("infrasight_core.testing.contract")

from infrasight_core.testing.contract import ProbeContract  # noqa: E402 - after the rewrite
from infrasight_core.testing.golden import GoldenBlocks, save_golden_blocks  # noqa: E402

__all__ = ["GoldenBlocks", "ProbeContract", "save_golden_blocks"]
