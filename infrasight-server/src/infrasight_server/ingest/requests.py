"""Parses what an agent sends, after a scan that bounds the memory which parsing needs.

Two bytes on the wire can become an object of a hundred, so the number of objects is counted first.
The scan reads the encoding of protobuf: a field is its number and type, followed by its value.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from attrs import frozen
from google.protobuf.message import DecodeError
from infrasight.v1.stream_pb2 import Batch, Messages, StreamRequest

from infrasight_server.limits import (
    MAX_BATCH_HEAD_BYTES,
    MAX_CONTAINER_BYTES,
    MAX_CONTAINERS,
    MAX_CONTAINERS_BYTES,
    MAX_HELLO_BYTES,
    MAX_MESSAGES,
    MAX_MESSAGES_BYTES,
)

_HELLO: Final = StreamRequest.HELLO_FIELD_NUMBER
_BATCH: Final = StreamRequest.BATCH_FIELD_NUMBER
_ARROW: Final = Batch.ARROW_FIELD_NUMBER
_MESSAGES: Final = Batch.MESSAGES_FIELD_NUMBER
_CONTAINERS: Final = Batch.CONTAINERS_FIELD_NUMBER
_MESSAGE: Final = Messages.MESSAGES_FIELD_NUMBER
_LARGE: Final = frozenset({_ARROW, _MESSAGES, _CONTAINERS})
"""The fields of a batch that hold its rows and its container updates."""
_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10
_MAX_FIELDS: Final = MAX_CONTAINERS + 100
"""The most fields of a message whose fields are scanned one by one."""


@frozen
class InvalidRequest:
    """A request that is not parsed.

    Attributes:
        reason: Why, in one line.
        batch: The batch without rows that the server rejects; None if the stream has to end.
    """

    reason: str
    batch: Batch | None = None


@frozen
class _Field:
    number: int
    begin: int  # of the field
    value: int  # where its value begins
    end: int

    @property
    def size(self) -> int:
        return self.end - self.value


class _ScanError(Exception):
    """A message is malformed, or exceeds a bound."""


def parse_request(data: bytes) -> StreamRequest | InvalidRequest:
    """Parses a request of an agent's stream. gRPC calls it for each message."""
    view = memoryview(data)
    try:
        fields = list(_scan(view, 0, len(view), _MAX_FIELDS))
        messages = [field for field in fields if field.number in (_HELLO, _BATCH)]
        if len(messages) != 1:
            raise _ScanError("a request must be one hello or one batch")
        (message,) = messages
        if len(view) - message.size > MAX_BATCH_HEAD_BYTES:
            raise _ScanError("it has too many unknown fields")
        if message.number == _HELLO and message.size > MAX_HELLO_BYTES:
            raise _ScanError(f"hello exceeds {MAX_HELLO_BYTES} bytes")
        if message.number == _BATCH:
            invalid = _check_batch(view, message)
            if invalid is not None:
                return invalid
        return StreamRequest.FromString(data)
    except (_ScanError, DecodeError) as error:
        return InvalidRequest(f"unusable request: {error}")


def _check_batch(view: memoryview, message: _Field) -> InvalidRequest | None:
    fields = list(_scan(view, message.value, message.end, _MAX_FIELDS))
    large = [field for field in fields if field.number in _LARGE]
    sizes: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for field in large:
        sizes[field.number] += field.size
        counts[field.number] += 1
    head_size = message.size - sum(sizes.values())
    if head_size > MAX_BATCH_HEAD_BYTES:
        raise _ScanError(f"a batch exceeds {MAX_BATCH_HEAD_BYTES} bytes beside its rows")
    violation = _find_violation(view, large, sizes, counts)
    if not violation:
        return None
    head = b"".join(view[field.begin : field.end] for field in fields if field.number not in _LARGE)
    return InvalidRequest(violation, Batch.FromString(head))


def _find_violation(
    view: memoryview, large: list[_Field], sizes: Counter[int], counts: Counter[int]
) -> str:
    """Returns which bound a batch exceeds; "" for none."""
    if counts[_ARROW] + counts[_MESSAGES] > 1:
        return "it has more than one body"
    if sizes[_MESSAGES] > MAX_MESSAGES_BYTES:
        return f"its messages exceed {MAX_MESSAGES_BYTES} bytes; send fewer rows, or Arrow"
    if counts[_CONTAINERS] > MAX_CONTAINERS or sizes[_CONTAINERS] > MAX_CONTAINERS_BYTES:
        return (
            f"its containers exceed {MAX_CONTAINERS} or {MAX_CONTAINERS_BYTES} bytes; "
            "send fewer containers at once"
        )
    for field in large:
        if field.number == _CONTAINERS and field.size > MAX_CONTAINER_BYTES:
            return f"a container exceeds {MAX_CONTAINER_BYTES} bytes"
        if field.number == _MESSAGES and _has_too_many_rows(view, field):
            return f"it has more than {MAX_MESSAGES} messages; send fewer rows, or Arrow"
    return ""


def _has_too_many_rows(view: memoryview, messages: _Field) -> bool:
    try:
        for _ in _scan(view, messages.value, messages.end, MAX_MESSAGES):
            pass
    except _ScanError:
        return True
    return False


def _scan(view: memoryview, position: int, end: int, most: int) -> Iterator[_Field]:
    """Yields the fields of a message. Raises _ScanError if it is malformed or has too many."""
    count = 0
    while position < end:
        count += 1
        if count > most:
            raise _ScanError(f"it has more than {most} fields")
        begin = position
        tag, position = _varint(view, position, end)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value = position
            _, position = _varint(view, position, end)
        elif wire_type == _BYTES:
            size, value = _varint(view, position, end)
            position = value + size
        elif wire_type in _FIXED_SIZES:
            value = position
            position += _FIXED_SIZES[wire_type]
        else:
            raise _ScanError(f"it has a field of the unsupported type {wire_type}")
        if position > end:
            raise _ScanError("it is cut off")
        yield _Field(tag >> 3, begin, value, position)


def _varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    """Returns a number and the position behind it."""
    number = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position >= end:
            raise _ScanError("it is cut off")
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise _ScanError("a number has too many bytes")
