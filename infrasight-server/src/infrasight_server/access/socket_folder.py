"""Prepares the folder of the server's Unix socket, and binds the socket in it."""

import os
import socket
import stat
from pathlib import Path

import structlog
from infrasight_core.errors import ConfigError

log = structlog.get_logger(__name__)
_LONGEST_PATH = 107  # bytes, in the kernel's address of a Unix socket
_SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH
_BACKLOG = 1024


def prepare_folder(folder: Path, group: int | None) -> None:
    """Creates the folder of the socket, or checks that no other user can replace the socket.

    Args:
        folder: The folder. A new one can be entered by the own user and the group only.
        group: The group, if any.

    Raises:
        ConfigError: The folder cannot be created, or other users may write to it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            folder.mkdir(mode=0o700)
            if group is not None:
                os.chown(folder, -1, group)
                folder.chmod(0o750)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(
            f"listen: cannot create the folder {folder}: {error.strerror}; create it for this user "
            f"(`sudo install -d -m 750 -o {os.geteuid()} {folder}`), or listen elsewhere, "
            "for instance on unix:./run/server.sock"
        ) from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & _SHARED_WRITE:
        raise ConfigError(
            f"listen: other users may write to the folder {folder}, and so could replace the "
            "server's socket; choose a folder that only this user may write to"
        )
    can_enter = status.st_gid == group and status.st_mode & stat.S_IXGRP
    if group is not None and not can_enter and not status.st_mode & stat.S_IXOTH:
        log.warning(
            "the group of the socket cannot enter its folder; chgrp and chmod 750 it",
            folder=str(folder),
        )


def bind_socket(path: Path, group: int | None) -> socket.socket:
    """Listens on a new Unix socket; one that a server left behind when it was killed is replaced.

    Args:
        path: The path of the socket, in a prepared folder.
        group: The group that may connect besides the own user, if any.

    Raises:
        ConfigError: Another server listens there, or the socket cannot be created.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigError(f"listen: the path {path} is longer than {_LONGEST_PATH} bytes")
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        listener.bind(str(path))  # other users cannot connect before the mode allows it
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(0o600 if group is None else 0o660)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"listen: cannot listen on unix:{path}: {error.strerror or error}"
        ) from error
    except ConfigError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"listen: {path} exists and is no socket; remove it, or listen elsewhere")
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"listen: cannot listen on unix:{path}: another server listens there")
