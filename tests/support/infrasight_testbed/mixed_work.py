"""Work of several kinds, as a development machine does it: builds, git, servers."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from infrasight_testbed.traced_work import Work, loops, programs

_ROOT: Final = Path(__file__).parents[3]
_GIT: Final = (
    ("clone", "--quiet", "--no-local", str(_ROOT), "{clone}"),
    ("-C", "{clone}", "log", "--stat", "-n", "50"),
    ("-C", "{clone}", "status"),
    ("-C", "{clone}", "grep", "-c", "def "),
    ("-C", "{clone}", "checkout", "--quiet", "HEAD~1"),
)


class MixedWork:
    """Builds a package, compiles, uses git, and runs the servers that are installed.

    Args:
        folder: An empty folder below which every user may read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        list(loops(folder))  # they prepare the folder
        self._programs: list[Work] = [each for each in programs(folder) if not each.missing]

    def run(self, times: int) -> None:
        """Does all of it so many times."""
        for number in range(times):
            self._use_git(self._folder / f"clone{number}")
            self._build_packages()
            for program in self._programs:
                program.cpu_ns()

    def _use_git(self, clone: Path) -> None:
        for arguments in _GIT:
            _run_quietly("git", *(each.format(clone=clone) for each in arguments))

    def _build_packages(self) -> None:
        build = ("-m", "hatchling", "build", "--target", "wheel", "--directory")
        for package in sorted(_ROOT.glob("infrasight-*")):
            _run_quietly(sys.executable, *build, str(self._folder / "wheels"), folder=package)


def _run_quietly(*command: str, folder: Path | None = None) -> None:
    quiet = subprocess.DEVNULL
    subprocess.run(command, check=True, cwd=folder, stdout=quiet, stderr=quiet)
