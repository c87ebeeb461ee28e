"""Measures an Arrow IPC stream before it is decoded: its rows and its size in memory.

A compressed buffer begins with its uncompressed size, which Arrow allocates before it decompresses;
so a short stream can claim any amount of memory. Where a stream describes its buffers is defined
by Arrow's Message.fbs, of which only what matters here is read.
"""

import struct
from typing import Final

import pyarrow as pa
from attrs import frozen
from infrasight_core.errors import SchemaError

from infrasight_server.limits import MAX_BUFFERS, MAX_IPC_MESSAGES, MAX_IPC_METADATA_BYTES

_METADATA_V5: Final = 4
# The fields of the tables in Message.fbs, by position.
_MESSAGE_VERSION: Final = 0
_MESSAGE_HEADER: Final = 2
_DICTIONARY_DATA: Final = 1
_BATCH_LENGTH: Final = 0
_BATCH_BUFFERS: Final = 2
_BATCH_COMPRESSION: Final = 3
_BUFFER: Final = struct.Struct("<qq")  # offset and length
_SIZE: Final = struct.Struct("<q")
_STORED_PLAIN: Final = -1


@frozen
class ArrowSize:
    """What an IPC stream claims to contain.

    Attributes:
        rows: The rows of its record batches.
        bytes: The size of all buffers after decompression, those of dictionaries included.
    """

    rows: int
    bytes: int


def measure(stream: bytes, max_bytes: int) -> ArrowSize:
    """Returns the size of an IPC stream, without decompressing it.

    Args:
        stream: The stream.
        max_bytes: The largest size in memory.

    Raises:
        SchemaError: It is no IPC stream, or one of its parts exceeds its bound.
    """
    rows = 0
    size = 0
    number = -1
    try:
        reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(stream))
        for number, message in enumerate(reader):
            if number >= MAX_IPC_MESSAGES:
                raise SchemaError(f"it has more than {MAX_IPC_MESSAGES} Arrow messages")
            if message.metadata.size > MAX_IPC_METADATA_BYTES:
                raise SchemaError(
                    f"the metadata of an Arrow message exceeds {MAX_IPC_METADATA_BYTES} bytes"
                )
            batch = _record_batch(message)
            if batch is None:
                continue
            size += _body_size(batch, message.body)
            if message.type == "record batch":
                rows += batch.number(_BATCH_LENGTH)
            if size > max_bytes:
                raise SchemaError(
                    f"its rows exceed {max_bytes} bytes after decompression; "
                    "send fewer rows at once"
                )
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise SchemaError(f"not an Arrow IPC stream: {str(error).partition(chr(10))[0]}") from error
    if number < 0:
        raise SchemaError("not an Arrow IPC stream: it is empty")
    return ArrowSize(rows, size)


class _Table:
    """A table of a flatbuffer. Reading outside the buffer raises struct.error or ValueError."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position
        self._fields = position - _read("<i", data, position)
        self._fields_size = _read("<H", data, self._fields)

    def number(self, field: int, layout: str = "<q") -> int:
        """Returns an integer; 0 where the table lacks it."""
        position = self._find(field)
        return _read(layout, self._data, position) if position else 0

    def table(self, field: int) -> "_Table | None":
        """Returns a table that this one refers to."""
        position = self._find(field)
        if not position:
            return None
        return _Table(self._data, position + _read("<I", self._data, position))

    def buffers(self, field: int) -> list[tuple[int, int]]:
        """Returns a vector of buffers, each with offset and length."""
        position = self._find(field)
        if not position:
            return []
        vector = position + _read("<I", self._data, position)
        count = _read("<I", self._data, vector)
        if count > MAX_BUFFERS:
            raise SchemaError(f"an Arrow message has more than {MAX_BUFFERS} buffers")
        begin = vector + 4
        items = self._data[begin : begin + count * _BUFFER.size]
        return list(_BUFFER.iter_unpack(items))

    def _find(self, field: int) -> int:
        slot = 4 + 2 * field
        if slot + 2 > self._fields_size:
            return 0
        offset = _read("<H", self._data, self._fields + slot)
        return self._position + offset if offset else 0


def _read(layout: str, data: memoryview, position: int) -> int:
    if position < 0:
        raise ValueError("an offset points before the message")
    return int(struct.unpack_from(layout, data, position)[0])


def _record_batch(message: pa.ipc.Message) -> _Table | None:
    """Returns the description of a message's buffers; None for a schema, which has none."""
    data = memoryview(message.metadata)
    root = _Table(data, _read("<I", data, 0))
    if root.number(_MESSAGE_VERSION, "<h") != _METADATA_V5:
        # Older ones can declare their compression in another place.
        raise SchemaError("its Arrow format is older than version 5")
    header = root.table(_MESSAGE_HEADER)
    if header is None or message.type == "schema":
        return None
    if message.type == "dictionary":
        return header.table(_DICTIONARY_DATA)
    if message.type == "record batch":
        return header
    raise SchemaError(f"it contains an Arrow message of type {message.type}")


def _body_size(batch: _Table, body: pa.Buffer | None) -> int:
    """Returns the size of a message's buffers after decompression."""
    is_compressed = batch.table(_BATCH_COMPRESSION) is not None
    data = memoryview(body) if body is not None else memoryview(b"")
    size = 0
    for offset, length in batch.buffers(_BATCH_BUFFERS):
        if offset < 0 or length < 0 or offset + length > len(data):
            raise SchemaError("an Arrow buffer lies outside its message")
        if not length:
            continue
        uncompressed = _read(_SIZE.format, data, offset) if is_compressed else length
        if uncompressed == _STORED_PLAIN:
            uncompressed = length - _SIZE.size
        if uncompressed < 0:
            raise SchemaError("an Arrow buffer has a negative size")
        size += uncompressed
    return size
