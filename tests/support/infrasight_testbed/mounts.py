"""Small file systems in memory, for tests."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_file_system(folder: Path, size: int) -> Iterator[Path]:
    """Mounts an empty file system on a new folder, and unmounts it in the end.

    Args:
        folder: The folder, which is created.
        size: Its bytes.
    """
    folder.mkdir(parents=True)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
