"""Keeps compiled programs in a folder, so that an agent's next start needs no compiler.

An entry is a file that is named after a hash of everything that the compiler's result depends on.
Its first line is a hash of the second, which is JSON: the key again, and the program. An entry that
another user may have written, or that is damaged, is not used.
"""

import hashlib
import json
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from infrasight_core.errors import ConfigError
from infrasight_core.kernel.compiled_program import CompiledProgram, InputFile
from infrasight_core.settings.private_files import open_private_folder

log = structlog.get_logger(__name__)
MOST_ENTRIES = 64
FORMAT = 1
_MOST_BYTES = 16 << 20  # of an entry; real ones have less than one million
_ENTRY = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{16}\.new)?")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class ProgramCache:
    """The cache in one folder, which several processes may use at once.

    Args:
        folder: The folder, which only this user may enter. It is created when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_warned = False

    def find(self, key: str) -> CompiledProgram | None:
        """Returns a program that was stored; None if there is none that can be used."""
        try:
            folder = self._open()
        except ConfigError as error:
            self._warn(str(error))
            return None
        try:
            program = _read_entry(folder, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning(
                "a cached program is not used; it is compiled again",
                file=str(self._folder / key),
                reason=str(error),
            )
            return None
        finally:
            os.close(folder)
        if not all(is_unchanged(file) for file in program.compiler):
            log.info("the compiler has changed since a program was cached")
            return None
        return program

    def store(self, key: str, program: CompiledProgram) -> None:
        """Stores a program, and removes the oldest ones."""
        try:
            folder = self._open()
        except ConfigError as error:
            self._warn(str(error))
            return
        try:
            _write_entry(folder, key, program)
            _remove_oldest(folder)
        except OSError as error:
            self._warn(f"cannot write: {error.strerror}")
        finally:
            os.close(folder)

    def _open(self) -> int:
        return open_private_folder(self._folder, "program_cache")

    def _warn(self, reason: str) -> None:
        """Logs once why the cache is not used."""
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "compiled programs cannot be cached; each start compiles them",
                folder=str(self._folder),
                reason=reason,
            )


def key_of(**inputs: Any) -> str:
    """Returns the key of a program: a hash of everything that JSON can tell about its inputs."""
    text = json.dumps({"format": FORMAT, **inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_unchanged(file: InputFile) -> bool:
    """Returns whether a file of the compiler is still the one that was used."""
    try:
        status = Path(file.path).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size, file.changed_ns)


def _read_entry(folder: int, key: str) -> CompiledProgram:
    """Reads an entry. Raises OSError; ValueError if it must not be used."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(key, flags, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
            raise ValueError("other users may have written it")
        if status.st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        digest, _, content = file.read().partition(b"\n")
    if digest.decode(errors="replace") != hashlib.sha256(content).hexdigest():
        raise ValueError("it is damaged")
    entry = json.loads(content)
    if not isinstance(entry, dict) or entry.keys() != {"key", "program"} or entry["key"] != key:
        raise ValueError("it is not the entry of this key")
    return CompiledProgram.from_json(entry["program"])


def _write_entry(folder: int, key: str, program: CompiledProgram) -> None:
    """Writes an entry in one step. Raises OSError."""
    content = json.dumps({"key": key, "program": program.to_json()}).encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    new = f"{key}.{secrets.token_hex(8)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(digest + b"\n" + content)
    os.replace(new, key, src_dir_fd=folder, dst_dir_fd=folder)


def _remove_oldest(folder: int) -> None:
    """Removes all entries but the newest, and what an interrupted writer left. Raises OSError."""
    ages = {}
    for name in filter(_ENTRY.fullmatch, os.listdir(folder)):
        with suppress(FileNotFoundError):  # another process has removed it
            ages[name] = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
    newest_first = sorted(ages, key=ages.__getitem__, reverse=True)
    for name in newest_first[MOST_ENTRIES:]:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
