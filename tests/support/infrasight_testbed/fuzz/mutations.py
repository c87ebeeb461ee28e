"""Mutates messages: their bytes, their protobuf fields, their numbers, and Arrow data in them."""

import random
from collections.abc import Callable
from typing import Final

import pyarrow as pa
from attrs import frozen
from google.protobuf.message import DecodeError
from infrasight.v1.stream_pb2 import StreamRequest
from infrasight_core.errors import SchemaError
from infrasight_core.net import zstd_frame

_EXTREMES: Final = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_TEXTS: Final = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"'; DROP TABLE x --",
    b"\x1b[2J",
    b"a" * 257,
    b"a" * 70_000,
    "é".encode() * 200,
    b"{}",
    b"-",
    b"../../etc/passwd",
)
_FIXED: Final = {1: 8, 5: 4}
_MAX_DEPTH: Final = 6
_ARROW_MAGIC: Final = b"\xff\xff\xff\xff"  # begins each message of an IPC stream


@frozen
class _Field:
    number: int
    wire_type: int
    begin: int
    value: int
    end: int


class Mutator:
    """Mutates messages; equal seeds give equal mutations.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._kinds: tuple[Callable[[bytes], bytes], ...] = (
            self._flip_bits,
            self._truncate,
            self._splice,
            self._overwrite_number,
            *(self._change_field,) * 6,
            *(self._change_arrow,) * 6,
            *(self._change_framed,) * 2,
        )

    def mutate(self, message: bytes) -> bytes:
        """Returns a message with one to three mutations."""
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            message = self.random.choice(self._kinds)(message)
        return message

    def mutate_text(self, text: str, texts: list[str]) -> str:
        """Returns a statement with some of its words exchanged, repeated or removed."""
        words = text.split(" ")
        for _ in range(self.random.choice((1, 1, 2, 4))):
            place = self.random.randrange(len(words))
            other = self.random.choice(self.random.choice(texts).split(" "))
            words[place : place + self.random.randrange(2)] = self.random.choice(
                ([other], [], ["("], [")"], [other] * 50, [chr(self.random.randrange(1, 0xD7FF))])
            )
            words = words or [""]
        return " ".join(words)

    def _flip_bits(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 8))):
            if changed:
                changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _truncate(self, data: bytes) -> bytes:
        return data[: self.random.randrange(len(data) + 1)]

    def _splice(self, data: bytes) -> bytes:
        """Removes, repeats or inserts a piece."""
        begin = self.random.randrange(len(data) + 1)
        piece = data[begin : begin + self.random.choice((1, 4, 32, 1024))]
        rest = data[begin + len(piece) :]
        inserted = self.random.choice((b"", piece * 2, piece * 20, self.random.choice(_TEXTS)))
        return data[:begin] + inserted + rest

    def _overwrite_number(self, data: bytes) -> bytes:
        """Writes an extreme number over a place where binary formats have one."""
        size = self.random.choice((1, 2, 4, 8))
        if len(data) < size:
            return data
        place = self.random.randrange(len(data) - size + 1)
        number = self.random.choice(_EXTREMES) & ((1 << 8 * size) - 1)
        return data[:place] + number.to_bytes(size, "little") + data[place + size :]

    def _change_arrow(self, data: bytes) -> bytes:
        """Mutates an Arrow IPC stream in a message, and leaves what surrounds it valid."""
        begin = data.find(_ARROW_MAGIC)
        if begin < 0:
            return self._change_field(data)
        starts = [begin]
        while (begin := data.find(_ARROW_MAGIC, begin + 1)) >= 0:
            starts.append(begin)
        # Most of the time in the metadata of one of its messages.
        start = self.random.choice(starts)
        span = self.random.choice((16, 200, 800, len(data) - start))
        place = start + self.random.randrange(max(min(span, len(data) - start), 1))
        changed = bytearray(data)
        if self.random.random() < 0.5:
            changed[place] ^= 1 << self.random.randrange(8)
        else:
            size = self.random.choice((2, 4, 8))
            place -= place % 4
            number = self.random.choice(_EXTREMES) & ((1 << 8 * size) - 1)
            changed[place : place + size] = number.to_bytes(size, "little")[: len(data) - place]
        return bytes(changed)

    def _change_framed(self, data: bytes) -> bytes:
        """Mutates the Arrow IPC stream in a batch's zstd frame, and leaves the frame valid."""
        try:
            request = StreamRequest.FromString(data)
            stream = zstd_frame.decompress(request.batch.arrow)
        except (DecodeError, SchemaError):
            return self._change_arrow(data)
        request.batch.arrow = zstd_frame.compress(pa.py_buffer(self._change_arrow(stream)))
        return request.SerializeToString()

    def _change_field(self, data: bytes, depth: int = 0) -> bytes:
        """Changes one protobuf field at some depth; the lengths around it stay right."""
        fields = _fields(data)
        if not fields:
            return self._flip_bits(data) if data else self.random.choice(_TEXTS)
        field = self.random.choice(fields)
        whole = data[field.begin : field.end]
        value = data[field.value : field.end]
        if field.wire_type == 2 and depth < _MAX_DEPTH and self.random.random() < 0.7:
            changed = self._change_field(value, depth + 1)
            new = _tag(field) + varint(len(changed)) + changed
        else:
            new = self._replaced(field, whole, fields, data)
        return data[: field.begin] + new + data[field.end :]

    def _replaced(self, field: _Field, whole: bytes, fields: list[_Field], data: bytes) -> bytes:
        choice = self.random.randrange(6)
        if choice == 0:
            return b""
        if choice == 1:
            return whole * self.random.choice((2, 2, 100))
        if choice == 2:
            other = self.random.choice(fields)
            return data[other.begin : other.end]
        if choice == 3:
            number = self.random.choice((*range(20), 1 << 28))
            return varint(number << 3 | field.wire_type) + data[field.value : field.end]
        if field.wire_type == 0:
            return _tag(field) + varint(self.random.choice(_EXTREMES))
        if field.wire_type == 2:
            text = self.random.choice(_TEXTS)
            length = self.random.choice((len(text), len(text), self.random.choice(_EXTREMES)))
            return _tag(field) + varint(length) + text
        return _tag(field) + self.random.randbytes(_FIXED[field.wire_type])


def varint(number: int) -> bytes:
    """Returns a number as protobuf encodes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _tag(field: _Field) -> bytes:
    return varint(field.number << 3 | field.wire_type)


def _fields(data: bytes) -> list[_Field]:
    """Returns the fields of a message; none if the bytes are no message."""
    fields: list[_Field] = []
    position = 0
    while position < len(data) and len(fields) < 500:
        begin = position
        tag, position = _read_varint(data, position)
        wire_type = tag & 7
        value = position
        if wire_type == 0:
            _, position = _read_varint(data, position)
        elif wire_type == 2:
            size, value = _read_varint(data, position)
            position = value + size
        elif wire_type in _FIXED:
            position += _FIXED[wire_type]
        else:
            return []
        if position > len(data) or not tag >> 3:
            return []
        fields.append(_Field(tag >> 3, wire_type, begin, value, position))
    return fields


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    return 0, len(data) + 1
