"""Bounds the spool, and goes on without it while its disk fails.

A batch that the disk does not take stays in memory; each is counted, and the first and the last of
a series are logged.
"""

import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from infrasight.v1.stream_pb2 import Batch
from prometheus_client import Counter, Gauge

from infrasight_core.agent.spool import Spool, StoredBatch
from infrasight_core.agent.spool_settings import DROP_OLDEST, NO_FOLDER, SpoolSettings
from infrasight_core.errors import ConfigError, SpoolError

log = structlog.get_logger(__name__)
SPOOLED_BYTES = Gauge(
    "infrasight_spool_bytes", "Bytes of batches on disk that the server has not acknowledged."
)
FAILURES = Counter(
    "infrasight_spool_failures", "Batches that could not be written to disk, or not read again."
)
_OPEN_SECONDS = 5.0  # between two attempts to open it


def open_spool(settings: SpoolSettings) -> "BoundedSpool | None":
    """Opens the spool; None if batches are to be stored in memory alone.

    Raises:
        ConfigError: The folder cannot be used, or another agent uses it.
    """
    if settings.folder == NO_FOLDER:
        return None
    try:
        return BoundedSpool(settings)
    except ConfigError as error:
        remedy = f"or `{NO_FOLDER}`, to store batches in memory alone"
        if os.geteuid():
            remedy = f"{remedy}; an agent must run as root anyway"
        raise ConfigError(f"{error}, {remedy}") from error


class BoundedSpool:
    """A spool with limits. If its disk fails from the beginning, it is opened later.

    Attributes:
        problem: Why the last batch could not be stored; "" if it could.

    Args:
        settings: Its folder and limits.

    Raises:
        ConfigError: The folder cannot be used, or another agent uses it.
    """

    def __init__(self, settings: SpoolSettings) -> None:
        self._settings = settings
        self.problem = ""
        self._lock = threading.Lock()  # of the number of bytes
        self._bytes = 0
        self._left: Sequence[StoredBatch] = ()
        self._spool: Spool | None = None
        self._opened = -math.inf
        self._open_if_due()

    def take_left(self) -> Sequence[StoredBatch]:
        """Returns the batches that it held when it was opened, oldest first; later nothing."""
        left = self._left
        self._left = ()
        return left

    @property
    def drops_oldest(self) -> bool:
        """Whether a full spool drops its oldest batches."""
        return self._settings.drop == DROP_OLDEST

    def missing_bytes(self, size: int) -> int:
        """Returns how many bytes must be dropped before a batch of this size fits; 0 if it fits."""
        return max(0, self._bytes + size - self._settings.bytes)

    def is_expired(self, seconds: float) -> bool:
        """Returns whether a batch is too old.

        Args:
            seconds: When it was stored, in seconds since the epoch.
        """
        days = self._settings.days
        return days is not None and time.time() - seconds > days * 86_400

    def store(self, batch: Batch, size: int) -> int:
        """Stores a batch. Returns its number; 0 if the disk does not take it.

        Args:
            batch: The batch.
            size: The bytes that count against the limit.
        """
        try:
            spool = self._open_if_due()
            if spool is None:
                return 0
            number = spool.add(batch)
        except (ConfigError, SpoolError) as error:
            self._report(str(error))
            return 0
        self._report("")
        self._add_bytes(size)
        return number

    def load(self, number: int) -> Batch | None:
        """Reads a batch; None, counted and logged, if it cannot be read."""
        if self._spool is None:
            return None
        try:
            return self._spool.load(number)
        except SpoolError as error:
            FAILURES.inc()
            log.error("a batch cannot be read from the spool", reason=str(error))
            return None

    def strip(self, number: int, head: Batch, size: int) -> None:
        """Stores only the head of a batch whose rows are dropped.

        Args:
            number: The batch.
            head: The batch without its rows.
            size: The bytes that it counted for.
        """
        if self._spool is None:
            return
        try:
            self._spool.replace(number, head)
        except SpoolError as error:
            self._report(str(error))
        self._add_bytes(-size)

    def remove(self, number: int, size: int) -> None:
        """Removes a batch that has been answered."""
        if self._spool is not None:
            self._spool.remove(number)
            self._add_bytes(-size)

    def flush(self) -> None:
        """Deletes what has been removed, although no batch is written."""
        if self._spool is None:
            return
        try:
            self._spool.flush()
        except SpoolError as error:
            self._report(str(error))

    def close(self) -> None:
        """Closes the files."""
        self.flush()
        if self._spool is not None:
            self._spool.close()

    def _open_if_due(self) -> Spool | None:
        """Returns the spool; None if it cannot be opened, which is tried every few seconds.

        Raises:
            ConfigError: The folder cannot be used, or another agent uses it.
        """
        now = time.monotonic()
        if self._spool is None and now - self._opened >= _OPEN_SECONDS:
            self._opened = now
            try:
                spool = Spool(Path(self._settings.folder), self._settings.synchronize)
                self._left = spool.batches()
                self._spool = spool
                self._add_bytes(sum(batch.size for batch in self._left))
            except SpoolError as error:
                self._report(str(error))
        return self._spool

    def _report(self, problem: str) -> None:
        if problem:
            FAILURES.inc()
        if problem and not self.problem:
            log.error("the spool cannot be written; batches stay in memory", reason=problem)
        if self.problem and not problem:
            log.info("the spool is written again")
        self.problem = problem

    def _add_bytes(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            SPOOLED_BYTES.set(self._bytes)
