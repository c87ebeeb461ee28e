"""What a probe's author tests with: the contract that every probe keeps, and golden blocks. Needs pytest."""

from infrasight_core.testing.contract import ProbeContract
from infrasight_core.testing.golden import Golden, save_golden

__all__ = ["Golden", "ProbeContract", "save_golden"]
