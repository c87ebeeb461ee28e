"""Keeps the files and folders of this process from other users."""

import os
import stat
from pathlib import Path

import structlog

from infrasight_core.errors import ConfigError

log = structlog.get_logger(__name__)
UMASK = 0o077
"""The umask of processes whose files only their own user may access."""
_PRIVATE_FOLDER = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path, setting: str) -> None:
    """Creates a folder that only this user may enter, or corrects the mode of an existing one.

    Args:
        folder: The folder; missing parents are created, too.
        setting: The setting that names it, for messages.

    Raises:
        ConfigError: The folder cannot be created, is a link, belongs to another user, or is one
            like /tmp for all users.
    """
    os.close(open_private_folder(folder, setting))


def open_private_folder(folder: Path, setting: str) -> int:
    """Does the same, and returns a descriptor of the folder, which the caller closes.

    Raises:
        ConfigError: As `make_private_folder`.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot use {folder} as a folder: {error.strerror}; "
            "choose a folder that this user may write to, not a link"
        ) from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"{setting}: {folder} belongs to user {status.st_uid}, who could read and replace "
                f"what is in it; change its owner to user {os.geteuid()}, or run as its owner"
            )
        if status.st_mode & stat.S_ISVTX:
            raise ConfigError(f"{setting}: {folder} is for all users (sticky); choose another one")
        if status.st_mode & _OTHERS:
            os.fchmod(descriptor, _PRIVATE_FOLDER)
            log.warning(
                "other users had access to a folder; mode corrected to 0700",
                folder=str(folder),
                mode=f"{stat.S_IMODE(status.st_mode):04o}",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_private_file(file: Path, content: bytes) -> None:
    """Writes a file that only this user may access, in one step.

    A process that reads it gets the old or the new content; so does one after a power failure. A
    link in its place is replaced, not followed.

    Raises:
        OSError: The file cannot be written.
    """
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)
    new.replace(file)


def read_private_file(file: Path, setting: str) -> str:
    """Reads a file that holds secrets.

    Args:
        file: The file.
        setting: The setting that names it, for messages.

    Raises:
        ConfigError: The file cannot be read, or other users may read or write it.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as opened:
            status = os.fstat(descriptor)
            is_private = stat.S_ISREG(status.st_mode) and not status.st_mode & _OTHERS
            if not is_private or status.st_uid not in (0, os.geteuid()):
                raise ConfigError(
                    f"{setting}: other users may access {file}: "
                    f"chown {os.geteuid()} and chmod 600 it"
                )
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{setting}: cannot read {file}: {reason}") from error
