"""Reads passwd(5) and group(5) into tables of names by id; names may hold any bytes."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
from attrs import frozen

log = structlog.get_logger(__name__)
MAX_FILE_BYTES = 64 << 20
CHECK_INTERVAL = 1.0  # seconds between two checks whether a file has changed
_NEWLINE, _COLON, _ZERO = b"\n:0"
_MAX_DIGITS = 10  # of the largest id
# Lines that begin with these are comments, NIS entries or broken.
_NOT_A_NAME = np.frombuffer(b"+-# \t\r\v\f", np.uint8)


@frozen(eq=False)
class NameTable:
    """The names in one file, by id.

    Attributes:
        ids: The ids, sorted and distinct.
        starts: The offset of each name in the data.
        ends: The offset behind each name.
        data: The file.
    """

    ids: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    data: bytes

    def name_of(self, number: int) -> bytes | None:
        """Returns the name of an id, if it has one."""
        place = int(np.searchsorted(self.ids, np.uint64(number)))
        if place == len(self.ids) or self.ids[place] != number:
            return None
        return self.data[self.starts[place] : self.ends[place]]


def parse_names(data: bytes) -> NameTable:
    """Parses lines of the form `name:password:id…` as glibc does.

    The first line of an id counts. Comments, NIS entries (which begin with + or -) and malformed
    lines are skipped: those without a name, with too few fields, or with an id that is not a
    number of 32 bits.
    """
    text = np.frombuffer(data, np.uint8)
    line_ends = np.append(np.flatnonzero(text == _NEWLINE), len(text))
    line_starts = np.append(0, line_ends[:-1] + 1)
    # Three colons behind the end serve lines that have fewer.
    colons = np.append(np.flatnonzero(text == _COLON), [len(text)] * 3)
    first_colon = np.searchsorted(colons[:-3], line_starts)
    name_ends = colons[first_colon]
    second_colons = colons[first_colon + 1]
    id_starts = second_colons + 1
    id_widths = np.minimum(colons[first_colon + 2], line_ends) - id_starts

    has_fields = (second_colons < line_ends) & (name_ends > line_starts)
    has_fields &= (id_widths > 0) & (id_widths <= _MAX_DIGITS)
    lines = np.flatnonzero(has_fields)
    lines = lines[~np.isin(text[line_starts[lines]], _NOT_A_NAME)]
    ids, is_number = _parse_ids(text, id_starts[lines], id_widths[lines])
    lines = lines[is_number]
    distinct_ids, first_lines = np.unique(ids[is_number], return_index=True)
    lines = lines[first_lines]
    return NameTable(distinct_ids, line_starts[lines], name_ends[lines], data)


def _parse_ids(
    text: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], widths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Parses decimal numbers digit by digit, and returns which of them are ids of 32 bits."""
    ids = np.zeros(len(starts), np.uint64)
    is_number = np.ones(len(starts), bool)
    if not len(starts):
        return ids, is_number
    for place in range(_MAX_DIGITS):
        is_within = place < widths
        digits = text[np.where(is_within, starts + place, 0)] - np.uint8(_ZERO)
        is_number &= ~is_within | (digits < 10)
        ids = np.where(is_within, ids * np.uint64(10) + digits, ids)
    return ids, is_number & (ids < 2**32)


class NameDatabase:
    """The names in a file, which is read again when it has changed; thread-safe.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._signature: tuple[int, ...] = ()
        self._table: NameTable | None = None
        self._logged_reason = ""

    def table(self) -> NameTable | None:
        """Returns the current names; None while the file cannot be read, which is logged once."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked_at >= CHECK_INTERVAL:
                self._checked_at = now
                self._read_if_changed()
            return self._table

    def _read_if_changed(self) -> None:
        try:
            # The signature is that of the open file, even if another file replaces it meanwhile.
            with self._path.open("rb") as file:
                signature = _signature_of(file.fileno())
                if signature == self._signature and self._table is not None:
                    return
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        except OSError as error:
            self._table = None
            self._signature = ()
            self._log_once(error.strerror or str(error))
            return
        self._table = parse_names(data)
        self._signature = signature
        self._logged_reason = ""

    def _log_once(self, reason: str) -> None:
        if reason != self._logged_reason:
            self._logged_reason = reason
            log.error("cannot read the user or group database", file=str(self._path), reason=reason)


def _signature_of(descriptor: int) -> tuple[int, ...]:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
