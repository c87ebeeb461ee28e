"""The probe open against the contract of every probe."""

import os

from infrasight_core.testing import ProbeContract


class TestOpen(ProbeContract):
    """The contract's tests."""

    probe = "open"
    decoded = frozenset({"flag_names"})

    def make_event(self) -> None:
        """Opens a file."""
        os.close(os.open("/dev/null", os.O_RDONLY))
