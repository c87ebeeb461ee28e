"""The probe chmod keeps every probe's contract."""

from infrasight_core.testing import ProbeContract


class TestChmod(ProbeContract):
    """All of the contract's tests."""

    probe = "chmod"
    decoded = frozenset({"mode_text"})
