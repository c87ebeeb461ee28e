"""The probe execve keeps every probe's contract."""

from infrasight_core.testing import ProbeContract


class TestExecve(ProbeContract):
    """All of the contract's tests."""

    probe = "execve"
