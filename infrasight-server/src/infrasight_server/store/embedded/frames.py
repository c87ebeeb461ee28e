"""The frames that the server and the store's process exchange over a Unix socket.

A connection carries one statement at a time. The server sends a request: a JSON object, and with an
insert the descriptor of a file that holds its rows. The process answers with any number of frames
of data, and then with one frame that ends the answer or reports an error. Data frames are pieces
of one sequence of bytes: the answer in the format that the request names.
"""

import json
import re
import socket
import struct
from collections.abc import Iterator
from io import RawIOBase
from typing import Any

_HEADER = struct.Struct("=cI")
_LARGEST_REQUEST = 64 << 20
_LARGEST_FRAME = 1 << 20
_REQUEST = b"R"
_DATA = b"D"
_ERROR = b"E"
_END = b"Z"
_CODE = re.compile(r"\bCode: (\d+)\.")
_STANDARD_EXCEPTION = 1001  # ClickHouse's number for errors that are not its own


class AnswerError(Exception):
    """A statement has no answer, or not a complete one.

    Attributes:
        code: ClickHouse's number of the error; None when the store's process did not answer.
    """

    code: int | None = None


class BrokenFramesError(AnswerError):
    """The other side has closed the connection, or sent something that is no frame."""


class StatementError(AnswerError):
    """The store's process answered with an error.

    Args:
        text: ClickHouse's message.
    """

    def __init__(self, text: str) -> None:
        number = _CODE.search(text)
        super().__init__(text[number.start() :] if number else text)
        self.code = int(number[1]) if number else _STANDARD_EXCEPTION


# --- the server's side ---


def send_request(sock: socket.socket, request: dict[str, Any], descriptor: int | None) -> None:
    """Sends a statement.

    Args:
        sock: The connection.
        request: The statement and how to run it, see `process.Request`.
        descriptor: An open file to send with it; the caller closes it.

    Raises:
        BrokenFramesError: The connection is closed.
    """
    body = json.dumps(request).encode()
    header = _HEADER.pack(_REQUEST, len(body))
    try:
        sent = socket.send_fds(sock, [header], [] if descriptor is None else [descriptor])
        sock.sendall(header[sent:] + body)
    except OSError as error:
        raise BrokenFramesError("the store's process has ended") from error


class Answer(RawIOBase):
    """The answer to a request, as a file; at its end, the connection is ready for the next request.

    Args:
        sock: The connection.

    Raises:
        StatementError: By `read`: the statement has failed, also after a part of the answer.
        BrokenFramesError: By `read`: the process has ended or does not answer in time.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._remaining = 0
        self._at_end = False

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a part of the buffer; returns the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        while not self._remaining:
            if self._at_end:
                return 0
            self._read_header()
        count = self._receive_into(view[: self._remaining])
        self._remaining -= count
        return count

    def _read_header(self) -> None:
        kind, length = _HEADER.unpack(self._receive(_HEADER.size))
        if length > _LARGEST_FRAME:
            raise BrokenFramesError("the store's process sent a frame that is too large")
        if kind == _DATA:
            self._remaining = length
        elif kind == _END:
            self._at_end = True
        elif kind == _ERROR:
            self._at_end = True
            raise StatementError(self._receive(length).decode("utf-8", "backslashreplace"))
        else:
            raise BrokenFramesError("the store's process sent an unknown frame")

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            view = view[self._receive_into(view) :]
        return bytes(data)

    def _receive_into(self, view: memoryview) -> int:
        try:
            count = self._sock.recv_into(view)
        except TimeoutError as error:
            raise BrokenFramesError("the store's process does not answer") from error
        except OSError as error:
            raise BrokenFramesError("the store's process has ended") from error
        if not count:
            raise BrokenFramesError("the store's process has ended")
        return count


# --- the process's side ---


def requests(sock: socket.socket) -> Iterator[tuple[dict[str, Any], int | None]]:
    """Yields the requests that arrive, each with the descriptor of its file, until the end.

    Raises:
        BrokenFramesError: Something arrived that is no request.
        OSError: The connection is broken.
    """
    while True:
        header, descriptors, _, _ = socket.recv_fds(sock, _HEADER.size, 1)
        if not header:
            return
        while len(header) < _HEADER.size:
            header += _some(sock, _HEADER.size - len(header))
        kind, length = _HEADER.unpack(header)
        if kind != _REQUEST or length > _LARGEST_REQUEST:
            raise BrokenFramesError("the server sent something that is no request")
        body = bytearray()
        while len(body) < length:
            body += _some(sock, length - len(body))
        yield json.loads(body), descriptors[0] if descriptors else None


def _some(sock: socket.socket, length: int) -> bytes:
    data = sock.recv(length)
    if not data:
        raise BrokenFramesError("the server closed the connection in the middle of a request")
    return data


def send_data(sock: socket.socket, data: memoryview) -> None:
    """Sends a part of an answer. Raises OSError."""
    for start in range(0, len(data), _LARGEST_FRAME):
        piece = data[start : start + _LARGEST_FRAME]
        sock.sendall(_HEADER.pack(_DATA, len(piece)))
        sock.sendall(piece)


def send_end(sock: socket.socket) -> None:
    """Ends an answer. Raises OSError."""
    sock.sendall(_HEADER.pack(_END, 0))


def send_error(sock: socket.socket, message: str) -> None:
    """Ends an answer with an error. Raises OSError."""
    text = message.encode("utf-8", "backslashreplace")[:_LARGEST_FRAME]
    sock.sendall(_HEADER.pack(_ERROR, len(text)) + text)
