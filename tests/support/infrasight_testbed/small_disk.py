"""A disk that a test can fill up; mounting it needs root."""

import errno
import subprocess
from pathlib import Path

_CHUNK = b"\0" * 65_536


class SmallDisk:
    """A file system in memory; a context manager.

    Args:
        folder: Where it is mounted; created if it does not exist.
        megabytes: Its size.
    """

    def __init__(self, folder: Path, megabytes: int = 64) -> None:
        self.folder = folder
        self._size = f"size={megabytes}m"
        self._ballast = folder / "ballast"

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", self._size, "tmpfs", str(self.folder)]
        subprocess.run(command, check=True)
        return self

    def fill(self) -> None:
        """Writes until no byte fits any more."""
        try:
            with self._ballast.open("ab", buffering=0) as file:
                while True:
                    file.write(_CHUNK)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def free(self) -> None:
        """Deletes what `fill` has written."""
        self._ballast.unlink()

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)
