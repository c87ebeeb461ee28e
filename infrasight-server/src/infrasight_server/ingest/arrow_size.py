"""Measures an Arrow IPC stream before it is decoded: its rows and its size in memory.

A compressed buffer begins with its uncompressed size, which Arrow allocates before it decompresses;
so a short stream can claim any amount of memory. Where a stream describes its buffers is defined
by Arrow's Message.fbs, of which only what matters here is read.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from attrs import frozen
from infrasight_core.errors import SchemaError

from infrasight_server.limits import MAX_BUFFERS, MAX_IPC_MESSAGES, MAX_IPC_METADATA_BYTES

_METADATA_V5: Final = 4
_SCHEMA: Final = 1
_DICTIONARY: Final = 2
_RECORD_BATCH: Final = 3
# The fields of the tables in Message.fbs, by position.
_MESSAGE_VERSION: Final = 0
_MESSAGE_TYPE: Final = 1
_MESSAGE_HEADER: Final = 2
_MESSAGE_BODY_LENGTH: Final = 3
_DICTIONARY_DATA: Final = 1
_BATCH_LENGTH: Final = 0
_BATCH_BUFFERS: Final = 2
_BATCH_COMPRESSION: Final = 3
_READ_FIELDS: Final = 4
"""The fields that are read of each table: its first ones."""
_FRAME: Final = struct.Struct("<Ii")  # in front of each message: a mark, the size of its metadata
_FRAME_MARK: Final = 0xFFFFFFFF
_INT64: Final = struct.Struct("<q")
_INT32: Final = struct.Struct("<i")
_UINT32: Final = struct.Struct("<I")
_INT16: Final = struct.Struct("<h")
_UINT16: Final = struct.Struct("<H")
_FIELDS: Final = [struct.Struct(f"<{count}H") for count in range(_READ_FIELDS + 1)]
_BUFFER: Final = struct.Struct("<qq")  # offset and length
_STORED_PLAIN: Final = -1
_CACHED_METADATA_BYTES: Final = 512
_CACHED_MESSAGES: Final = 8_192


@frozen
class ArrowSize:
    """What an IPC stream claims to contain.

    Attributes:
        rows: The rows of its record batches.
        dictionary_values: The values of its largest dictionary.
        bytes: The size of all buffers after decompression, those of dictionaries included.
    """

    rows: int
    dictionary_values: int
    bytes: int


@frozen
class _Message:
    """What the metadata of a message claims about its body.

    Attributes:
        body_size: The body's size in the stream.
        rows: The rows of a record batch; 0 for other messages.
        dictionary_values: The values of a dictionary; 0 for other messages.
        buffers: Where each buffer lies in the body and how long it is there.
        plain_size: The sum of their lengths.
        is_compressed: Whether a buffer begins with its size after decompression.
    """

    body_size: int
    rows: int = 0
    dictionary_values: int = 0
    buffers: tuple[tuple[int, int], ...] = ()
    plain_size: int = 0
    is_compressed: bool = False


def measure(stream: bytes, max_bytes: int) -> ArrowSize:
    """Returns the size of an IPC stream, without decompressing it.

    Args:
        stream: The stream.
        max_bytes: The largest size in memory.

    Raises:
        SchemaError: It is no IPC stream, or one of its parts exceeds its bound.
    """
    rows = 0
    values = 0
    size = 0
    try:
        for message, body in _messages(stream):
            rows += message.rows
            values = max(values, message.dictionary_values)
            size += _size_of_buffers(stream, message, body)
            if size > max_bytes:
                raise SchemaError(
                    f"its rows exceed {max_bytes} bytes after decompression; "
                    "send fewer rows at once"
                )
    except (IndexError, ValueError, struct.error) as error:
        raise SchemaError(f"not an Arrow IPC stream: {error}") from error
    return ArrowSize(rows, values, size)


def _messages(stream: bytes) -> Iterator[tuple[_Message, int]]:
    """Yields the messages of a stream, each with the position of its body."""
    if not stream:
        raise ValueError("it is empty")
    end = 0
    number = 0
    while end < len(stream):
        mark, metadata_size = _FRAME.unpack_from(stream, end)
        if mark != _FRAME_MARK:
            raise ValueError("a message does not begin with the mark of Arrow's format")
        if not metadata_size:  # the end of the stream
            return
        number += 1
        if number > MAX_IPC_MESSAGES:
            raise SchemaError(f"it has more than {MAX_IPC_MESSAGES} Arrow messages")
        if not 0 < metadata_size <= MAX_IPC_METADATA_BYTES:
            raise SchemaError(
                f"the metadata of an Arrow message exceeds {MAX_IPC_METADATA_BYTES} bytes"
            )
        begin = end + _FRAME.size
        body = begin + metadata_size
        metadata = stream[begin:body]
        # Most messages are small dictionaries, and many of them have the same metadata.
        is_small = metadata_size <= _CACHED_METADATA_BYTES
        message = _parse_cached(metadata) if is_small else _parse(metadata)
        end = body + message.body_size
        if end > len(stream):
            raise ValueError("it is cut off")
        yield message, body


def _parse(metadata: bytes) -> _Message:
    """Returns what the metadata of a message claims."""
    message = _fields(metadata, _target(metadata, 0))
    version = message[_MESSAGE_VERSION]
    if not version or _INT16.unpack_from(metadata, version)[0] != _METADATA_V5:
        # Older ones can declare their compression in another place.
        raise SchemaError("its Arrow format is older than version 5")
    body_size = _number(metadata, message[_MESSAGE_BODY_LENGTH])
    if body_size < 0:
        raise ValueError("a message has a negative size")
    if not message[_MESSAGE_TYPE] or not message[_MESSAGE_HEADER]:
        raise ValueError("a message has no header")
    message_type = metadata[message[_MESSAGE_TYPE]]
    if message_type == _SCHEMA:
        return _Message(body_size)
    batch = _fields(metadata, _target(metadata, message[_MESSAGE_HEADER]))
    rows = 0
    values = 0
    if message_type == _DICTIONARY:
        if not batch[_DICTIONARY_DATA]:
            raise ValueError("a dictionary has no values")
        batch = _fields(metadata, _target(metadata, batch[_DICTIONARY_DATA]))
        values = _number(metadata, batch[_BATCH_LENGTH])
    elif message_type == _RECORD_BATCH:
        rows = _number(metadata, batch[_BATCH_LENGTH])
    else:
        raise SchemaError(f"it contains an Arrow message of type {message_type}")
    buffers = _buffers(metadata, batch[_BATCH_BUFFERS])
    plain_size = 0
    for offset, length in buffers:
        if offset < 0 or length < 0 or offset + length > body_size:
            raise SchemaError("an Arrow buffer lies outside its message")
        plain_size += length
    is_compressed = bool(batch[_BATCH_COMPRESSION])
    return _Message(body_size, rows, values, buffers, plain_size, is_compressed)


_parse_cached = lru_cache(_CACHED_MESSAGES)(_parse)


def _fields(metadata: bytes, table: int) -> list[int]:
    """Returns where the first fields of a flatbuffer's table lie; 0 for those that it lacks.

    Reading outside the metadata raises IndexError, struct.error or ValueError.
    """
    layout = table - int(_INT32.unpack_from(metadata, table)[0])
    if layout < 0:
        raise ValueError("an offset points before the message")
    count = (_UINT16.unpack_from(metadata, layout)[0] - 4) // 2
    count = min(max(count, 0), _READ_FIELDS)
    offsets = _FIELDS[count].unpack_from(metadata, layout + 4)
    positions = [table + offset if offset else 0 for offset in offsets]
    return positions + [0] * (_READ_FIELDS - count)


def _target(metadata: bytes, position: int) -> int:
    """Returns where the table or vector lies that a field refers to."""
    return position + int(_UINT32.unpack_from(metadata, position)[0])


def _number(metadata: bytes, position: int) -> int:
    """Returns a field's integer; 0 for a field that the table lacks."""
    return int(_INT64.unpack_from(metadata, position)[0]) if position else 0


def _buffers(metadata: bytes, position: int) -> tuple[tuple[int, int], ...]:
    """Returns a vector of buffers, each with offset and length."""
    if not position:
        return ()
    vector = _target(metadata, position)
    (count,) = _UINT32.unpack_from(metadata, vector)
    if count > MAX_BUFFERS:
        raise SchemaError(f"an Arrow message has more than {MAX_BUFFERS} buffers")
    begin = vector + _UINT32.size
    return tuple(_BUFFER.iter_unpack(metadata[begin : begin + count * _BUFFER.size]))


def _size_of_buffers(stream: bytes, message: _Message, body: int) -> int:
    """Returns the size of a message's buffers after decompression."""
    if not message.is_compressed:
        return message.plain_size
    size = 0
    for offset, length in message.buffers:
        if not length:
            continue
        (uncompressed,) = _INT64.unpack_from(stream, body + offset)
        if uncompressed == _STORED_PLAIN:
            uncompressed = length - _INT64.size
        if uncompressed < 0:
            raise SchemaError("an Arrow buffer has a negative size")
        size += uncompressed
    return size
