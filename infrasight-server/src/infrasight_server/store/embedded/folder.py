"""Prepares the folder in which the embedded store keeps its data."""

import fcntl
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from infrasight_core.errors import StoreError

_RELEASE_SECONDS = 3.0
"""How long the process of a server that was killed may take to release the folder."""
_LOOK_SECONDS = 0.1


def prepare_folder(folder: Path) -> None:
    """Creates the folder if it does not exist, and waits briefly until no process uses it.

    Raises:
        StoreError: The folder is not writable, or another process uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{uuid.uuid4().hex}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise StoreError(
            f"data directory {folder} is not writable: {error.strerror}; "
            "choose another one with --data, or change its owner"
        ) from error
    end = time.monotonic() + _RELEASE_SECONDS
    while _is_in_use(folder):
        if time.monotonic() > end:
            raise StoreError(
                f"data directory {folder} is in use by another infrasight-server; "
                "choose another one with --data"
            )
        time.sleep(_LOOK_SECONDS)


def lock_folder(folder: Path) -> None:
    """Locks the folder until the process ends: the lock shows others whose files are in it.

    An agent on this machine does not record what this process does to them; see `find_store_files`
    in infrasight_core. A folder that is locked already, which chDB itself rejects, is left alone.

    Raises:
        OSError: The folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # never closed
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_in_use(folder: Path) -> bool:
    """Returns whether a chDB has the folder open; chDB's own message would be many lines long."""
    try:
        with (folder / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
