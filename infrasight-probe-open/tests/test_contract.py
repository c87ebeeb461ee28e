"""The probe open keeps every probe's contract."""

from infrasight_core.testing import ProbeContract


class TestOpen(ProbeContract):
    """All of the contract's tests."""

    probe = "open"
    decoded = frozenset({"flag_names"})
