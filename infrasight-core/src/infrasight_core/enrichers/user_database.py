"""passwd(5) and group(5): the names of ids, read as columns, any byte as it is."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
from attrs import frozen

log = structlog.get_logger(__name__)
LARGEST = 64 << 20  # bytes of a file
LOOK = 1.0  # seconds between two looks at whether it has changed
_NEWLINE, _COLON, _ZERO = b"\n:0"
_DIGITS = 10  # of the greatest id


@frozen(eq=False)
class Names:
    """The names of a file.

    Attributes:
        ids: Sorted, each once.
        starts: Where each one's name begins in the data.
        ends: Where it ends.
        data: The file.
    """

    ids: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    data: bytes

    def of(self, number: int) -> bytes | None:
        """The name of an id; None where it has none."""
        place = int(np.searchsorted(self.ids, np.uint64(number)))
        if place == len(self.ids) or self.ids[place] != number:
            return None
        return self.data[self.starts[place] : self.ends[place]]


def parse(data: bytes) -> Names:
    """The names by id of lines `name:password:id…`, as glibc reads them.

    The first of several lines of an id holds. Ignored: comments, lines of NIS, which begin with + or -, and broken ones:
    without a name, with too few fields, an id that is no number of 32 bits.
    """
    text = np.frombuffer(data, np.uint8)
    ends = np.append(np.flatnonzero(text == _NEWLINE), len(text))
    starts = np.append(0, ends[:-1] + 1)
    colons = np.append(np.flatnonzero(text == _COLON), [len(text)] * 3)
    first = np.searchsorted(colons[:-3], starts)
    name_end, number_start = colons[first], colons[first + 1] + 1
    number_end = np.minimum(colons[first + 2], ends)
    whole = (colons[first + 1] < ends) & (name_end > starts)
    starts, name_end, number_start, number_end = (
        c[whole] for c in (starts, name_end, number_start, number_end)
    )
    width = number_end - number_start
    good = (
        (width > 0)
        & (width <= _DIGITS)
        & ~np.isin(text[starts], np.frombuffer(b"+-# \t\r\v\f", np.uint8))
    )
    starts, name_end, number_start, width = (
        c[good] for c in (starts, name_end, number_start, width)
    )
    ids, digits = np.zeros(len(starts), np.uint64), np.ones(len(starts), bool)
    for place in range(_DIGITS):
        within = place < width
        digit = (
            text[np.where(within, number_start + place, 0)] - np.uint8(_ZERO)
            if len(starts)
            else np.zeros(0, np.uint8)
        )
        digits &= ~within | (digit < 10)
        ids = np.where(within, ids * np.uint64(10) + digit, ids)
    digits &= ids < 2**32
    ids, which = np.unique(ids[digits], return_index=True)
    return Names(ids, starts[digits][which], name_end[digits][which], data)


class Database:
    """One file, read again when it is another one.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._version: tuple[int, ...] = ()
        self._names: Names | None = None
        self._said = ""

    def names(self) -> Names | None:
        """What it holds now; None while it cannot be read, which is logged once."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= LOOK:
                self._looked = now
                self._look()
            return self._names

    def _look(self) -> None:
        try:
            with self._path.open(
                "rb"
            ) as file:  # what is read is what was looked at, though another takes its place
                stat = _version(file.fileno())
                if stat == self._version and self._names is not None:
                    return
                data = file.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise OSError(f"larger than {LARGEST >> 20} MiB")
        except OSError as error:
            self._names, self._version = None, ()
            self._say(error.strerror or str(error))
            return
        self._names, self._version, self._said = parse(data), stat, ""

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            log.error("names of ids are not known", file=str(self._path), reason=reason)


def _version(descriptor: int) -> tuple[int, ...]:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
