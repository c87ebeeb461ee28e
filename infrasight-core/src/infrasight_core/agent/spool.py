"""Stores batches on disk until the server has answered them, so that they outlive the agent.

SQLite stores them, in one file beside its write-ahead log: it keeps their order, discards what a
crash has left half written, and reports a full or failing disk. A checksum of each batch finds what
the disk has changed since.
"""

import fcntl
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from attrs import frozen
from google.protobuf.message import DecodeError
from infrasight.v1.stream_pb2 import Batch

from infrasight_core.agent.spool_settings import SYNCHRONIZATIONS
from infrasight_core.errors import ConfigError, SpoolError
from infrasight_core.settings.private_files import open_private_folder

log = structlog.get_logger(__name__)
_FILE = "batches.sqlite"
_LOG_SUFFIXES = ("-wal", "-shm")
_PAGE_BYTES = 8192  # larger pages are faster for large batches, and wasted on small ones
_LOG_BYTES = 16 << 20  # the log is cut to this size after each checkpoint
_FREED_PAGES = 512  # given back to the file system at once, when no batch is left
_CREATE = """
    CREATE TABLE IF NOT EXISTS batches (
        number INTEGER PRIMARY KEY,
        seconds REAL NOT NULL,
        batch_id TEXT NOT NULL,
        probe TEXT NOT NULL,
        rows INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        content BLOB NOT NULL
    )
"""


@frozen
class StoredBatch:
    """What the spool says about a batch without reading it.

    Attributes:
        number: Its number in the spool; a later batch has a higher one.
        seconds: When it was stored, in seconds since the epoch.
        batch_id: Its id.
        probe: Its probe.
        rows: The number of its events.
        size: Its bytes.
    """

    number: int
    seconds: float
    batch_id: str
    probe: str
    rows: int
    size: int


class Spool:
    """The spool in one folder, which one process at a time may use.

    One thread adds and removes; another one may load.

    Args:
        folder: The folder, which only this user may enter. It is created.
        synchronization: A key of `SYNCHRONIZATIONS`. `never` leaves it to the kernel when data
            reach the disk: they survive the end of this process, but not that of the machine.
            With `checkpoint`, the machine's end costs the batches of the last seconds, and with
            `batch`, none.

    Raises:
        ConfigError: The folder cannot be used, or another process uses it.
        SpoolError: The files cannot be opened.
    """

    def __init__(self, folder: Path, synchronization: str) -> None:
        self._file = folder / _FILE
        self._synchronization = SYNCHRONIZATIONS[synchronization]
        self._folder = open_private_folder(folder, "spool")
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._folder)
            raise ConfigError(
                f"spool: another agent uses {folder}; give each agent its own folder"
            ) from error
        self._last = 0  # the highest number so far
        self._removed: list[int] = []  # answered; deleted with the next write
        self._lock = threading.Lock()  # of the list
        try:
            self._open()
        except SpoolError:
            os.close(self._folder)  # which unlocks it
            raise

    def batches(self) -> list[StoredBatch]:
        """Returns what it holds, oldest first. Raises SpoolError."""
        sql = (
            "SELECT number, seconds, batch_id, probe, rows, length(content) "
            "FROM batches ORDER BY number"
        )
        with _spool_errors():
            return [StoredBatch(*row) for row in self._reader.execute(sql)]

    def add(self, batch: Batch) -> int:
        """Stores a batch, and deletes the removed ones. Returns its number, which is never 0.

        Raises:
            SpoolError: The disk is full or fails; nothing has changed.
        """
        content = batch.SerializeToString()
        number = self._last + 1
        row = (
            number,
            time.time(),
            batch.batch_id,
            batch.probe,
            batch.rows,
            zlib.crc32(content),
            content,
        )
        with self._change() as writer:
            writer.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._last = number
        return number

    def replace(self, number: int, batch: Batch) -> None:
        """Stores a batch in place of another one, at its number. Raises SpoolError."""
        content = batch.SerializeToString()
        sql = "UPDATE batches SET checksum = ?, content = ? WHERE number = ?"
        with self._change() as writer:
            writer.execute(sql, (zlib.crc32(content), content, number))

    def load(self, number: int) -> Batch:
        """Reads a batch.

        Raises:
            SpoolError: It is damaged or missing, or the disk fails.
        """
        sql = "SELECT checksum, content FROM batches WHERE number = ?"
        with _spool_errors():
            row = self._reader.execute(sql, (number,)).fetchone()
        if row is None:
            raise SpoolError(f"batch {number} is missing")
        checksum, content = row
        if zlib.crc32(content) != checksum:
            raise SpoolError(f"batch {number} is damaged: its checksum is wrong")
        try:
            return Batch.FromString(content)
        except DecodeError as error:
            raise SpoolError(f"batch {number} is damaged: {error}") from error

    def remove(self, number: int) -> None:
        """Deletes a batch with the next write: until then, a crash brings it back as a retry."""
        with self._lock:
            self._removed.append(number)

    def flush(self) -> None:
        """Deletes the removed batches now, and returns the room of an empty spool to the disk.

        Raises:
            SpoolError: The disk is full or fails.
        """
        with self._lock:
            has_work = bool(self._removed)
        if has_work:
            with self._change():
                pass
        with _spool_errors():
            (left,) = self._writer.execute("SELECT count(*) FROM batches").fetchone()
            if not left:
                # `execute` would end after the first page.
                self._writer.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES})")

    def close(self) -> None:
        """Closes the files. Batches that are left come back when the folder is opened again."""
        with suppress(sqlite3.Error):
            self._writer.close()
        with suppress(sqlite3.Error):
            self._reader.close()
        os.close(self._folder)

    def _open(self) -> None:
        """Opens the files; damaged ones are moved aside."""
        try:
            self._connect()
        except sqlite3.OperationalError as error:
            raise SpoolError(f"cannot open {self._file}: {error}") from error
        except sqlite3.DatabaseError as error:
            aside = self._file.with_name(f"{_FILE}.damaged-{time.time_ns()}")
            log.error("the spool is damaged; a new one begins", reason=str(error), kept=str(aside))
            for suffix in ("", *_LOG_SUFFIXES):
                with suppress(FileNotFoundError):
                    Path(f"{self._file}{suffix}").rename(f"{aside}{suffix}")
            with _spool_errors():
                self._connect()

    def _connect(self) -> None:
        self._writer = self._connection()
        try:
            self._reader = self._connection()
        except sqlite3.Error:
            self._writer.close()
            raise
        (last,) = self._writer.execute("SELECT coalesce(max(number), 0) FROM batches").fetchone()
        self._last = int(last)

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        try:
            for setting in (
                f"page_size = {_PAGE_BYTES}",
                "auto_vacuum = INCREMENTAL",
                "journal_mode = WAL",
                f"journal_size_limit = {_LOG_BYTES}",
                f"synchronous = {self._synchronization}",
            ):
                connection.execute(f"PRAGMA {setting}").fetchall()
            connection.execute(_CREATE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection within a transaction that also deletes the removed batches."""
        with self._lock:
            removed = list(self._removed)
        with _spool_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                numbers = ((number,) for number in removed)
                self._writer.executemany("DELETE FROM batches WHERE number = ?", numbers)
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._writer.execute("ROLLBACK")
                raise
        with self._lock:
            del self._removed[: len(removed)]


@contextmanager
def _spool_errors() -> Iterator[None]:
    """Raises SpoolError in place of SQLite's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise SpoolError(str(error)) from error
