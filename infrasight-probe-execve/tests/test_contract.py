"""The probe execve against the contract of every probe."""

import subprocess

from infrasight_core.testing import ProbeContract


class TestExecve(ProbeContract):
    """The contract's tests."""

    probe = "execve"

    def make_event(self) -> None:
        """Executes a program in a child process."""
        subprocess.run(["/bin/true"], check=True)
