"""The probe chmod against the contract of every probe."""

import tempfile
from pathlib import Path

from infrasight_core.testing import ProbeContract


class TestChmod(ProbeContract):
    """The contract's tests."""

    probe = "chmod"
    decoded = frozenset({"mode_text"})

    def make_event(self) -> None:
        """Changes the mode of a file."""
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).chmod(0o640)
