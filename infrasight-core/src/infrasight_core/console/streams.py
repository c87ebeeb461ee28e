"""The standard streams of a command, prepared for everything that a shell can connect them to."""

import io
import os
import sys
from typing import Any

from infrasight_core.printable import escape_unprintable


def prepare() -> None:
    """Makes stdin, stdout and stderr usable, whatever state they were inherited in.

    A closed stream becomes one that fails when it is used, so that no other file can take its
    descriptor. Characters that the encoding of a stream lacks are escaped. A failure to write to
    stderr is ignored: there is nowhere to report it.
    """
    _occupy_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    writer = io.BufferedWriter(_BestEffortFile(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(writer, encoding, "backslashreplace", line_buffering=True)


def report(text: str) -> None:
    """Writes one line to stderr."""
    print(printable(text), file=sys.stderr)


def discard_stdout() -> None:
    """Discards what is still buffered for stdout, on which Python's exit would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def stdout_is_utf8() -> bool:
    """Whether stdout can show every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def printable(text: str) -> str:
    """Text that a terminal only prints.

    Control characters, invisible characters and those that the encoding of stdout lacks are
    escaped as Python writes them.
    """
    text = escape_unprintable(text)
    if not text.isascii() and not stdout_is_utf8():
        encoding = sys.stdout.encoding
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def utf8_argument(text: str) -> str:
    """A command-line argument as UTF-8 text; a byte that is not UTF-8 becomes `\\xNN`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


class _BestEffortFile(io.FileIO):
    """A file that drops what cannot be written."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or memoryview(data).nbytes
        except OSError:
            return memoryview(data).nbytes


def _occupy_closed_descriptors() -> None:
    """Opens closed standard descriptors in the opposite direction, so that using them fails."""
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is `descriptor`
