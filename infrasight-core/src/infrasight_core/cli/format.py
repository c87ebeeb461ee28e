"""Rows as text, for people and for pipes. No name that a program chose reaches a terminal raw."""

import json
import math
import re
import shlex
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infrasight_core.console.streams import printable, stdout_is_utf8
from infrasight_core.plugin.schema import IP_ADDRESS, IP_ADDRESS_MARK

# What a terminal obeys or hides although JSON allows it: C1 controls, and marks that change the
# direction of text.
_UNSAFE = re.compile(
    "[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_ROWS = 4096
_IPV4 = bytes(10) + b"\xff\xff"
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str
).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True).encode


def json_lines(table: pa.Table) -> Iterator[str]:
    """Yields one JSON object per row, without a newline; its keys are in the order of the columns.

    Bytes are shown as UTF-8, and those that are not as `\\xNN`. Timestamps are ISO 8601 in UTC with
    all digits of their unit. NaN and infinity, which JSON lacks, become null. IP addresses are
    shown as people write them. A repeated name gets `_2` at its end.
    """
    keys = unique_names(table.column_names)
    for batch in table.to_batches(max_chunksize=_ROWS):
        for row in rows_of(batch):
            yield _safe_json(_encode(dict(zip(keys, row, strict=True))))


def write_lines(lines: Iterable[str]) -> None:
    """Writes JSON lines to stdout; a stdout that is not UTF-8 gets pure ASCII, with `\\uNNNN`."""
    text = "".join(f"{line}\n" for line in lines)
    if not text.isascii() and not stdout_is_utf8():
        text = _NOT_ASCII.sub(_escape, text)
    sys.stdout.write(text)


def write_objects(objects: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object per line to stdout."""
    write_lines(_safe_json(json.dumps(item, ensure_ascii=False)) for item in objects)


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows, each value as JSON can represent it."""
    columns = [
        values(column, is_address(field))
        for column, field in zip(batch.columns, batch.schema, strict=True)
    ]
    return zip(*columns, strict=True)


def is_address(field: pa.Field) -> bool:
    """Whether a column holds IP addresses; its type, 16 bytes, does not tell."""
    return IP_ADDRESS_MARK.items() <= (field.metadata or {}).items()


def address(value: bytes) -> str:
    """An IP address of 16 bytes as people write it: an IPv4 one as `10.0.0.1`, none as `::`."""
    if value.startswith(_IPV4):
        return socket.inet_ntop(socket.AF_INET, value[len(_IPV4) :])
    return socket.inet_ntop(socket.AF_INET6, value)


def unique_names(names: list[str]) -> list[str]:
    """The names, a repeated one with `_2`, `_3` ... at its end."""
    unique: list[str] = []
    for name in names:
        candidate = name
        number = 2
        while candidate in unique:
            candidate = f"{name}_{number}"
            number += 1
        unique.append(candidate)
    return unique


def shown(value: bytes) -> str:
    """Bytes as text: UTF-8, and `\\xNN` for bytes that are not."""
    return value.decode("utf-8", "backslashreplace")


def quoted(argument: bytes) -> str:
    """An argument as one would type it into a shell; `$'...'` where it cannot be typed."""
    text = shown(argument)
    if text.isprintable() and text.encode() == argument:
        return printable(shlex.quote(text))
    escaped = argument.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
    return f"$'{printable(shown(escaped))}'"


def values(array: pa.Array, addresses: bool = False) -> list[Any]:
    """The values of a column as JSON can represent them; see `json_lines`.

    Args:
        array: The column.
        addresses: Whether values of 16 bytes are IP addresses.
    """
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return values(array.storage, addresses)
    if pa.types.is_dictionary(kind):
        distinct = values(array.dictionary, addresses)
        return [None if index is None else distinct[index] for index in array.indices.to_pylist()]
    if pa.types.is_string(kind):
        # A string of the store holds any bytes; Arrow fails to decode those that are not UTF-8.
        return values(array.cast(pa.binary()))
    if pa.types.is_large_string(kind):
        return values(array.cast(pa.large_binary()))
    if addresses and kind == IP_ADDRESS:
        return [None if value is None else address(value) for value in array.to_pylist()]
    if _is_bytes(kind):
        return [None if value is None else shown(value) for value in array.to_pylist()]
    if pa.types.is_timestamp(kind):
        return _timestamps(array)
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_decimal(kind):
        return list(array.cast(pa.string()).to_pylist())
    if pa.types.is_duration(kind):
        return list(array.cast(pa.int64()).to_pylist())
    if pa.types.is_floating(kind):
        return [
            value if value is not None and math.isfinite(value) else None
            for value in array.to_pylist()
        ]
    if pa.types.is_map(kind):
        return _maps(array)
    if pa.types.is_struct(kind):
        return _structs(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(array, addresses)
    return list(array.to_pylist())


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _timestamps(array: pa.Array) -> list[Any]:
    if array.type.tz:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    texts = array.cast(pa.string()).to_pylist()
    return [None if text is None else text.replace(" ", "T") for text in texts]


def _maps(array: pa.Array) -> list[Any]:
    offsets = array.offsets.to_pylist()
    first = offsets[0]
    length = offsets[-1] - first
    keys = [str(key) for key in values(array.keys.slice(first, length))]
    items = values(array.items.slice(first, length))
    pairs = list(zip(keys, items, strict=True))
    maps: list[Any] = []
    for index, valid in enumerate(array.is_valid().to_pylist()):
        start = offsets[index] - first
        end = offsets[index + 1] - first
        maps.append(dict(pairs[start:end]) if valid else None)
    return maps


def _structs(array: pa.Array) -> list[Any]:
    names = unique_names([field.name for field in array.type])
    rows = zip(array.is_valid().to_pylist(), *map(values, array.flatten()), strict=True)
    return [dict(zip(names, row, strict=True)) if valid else None for valid, *row in rows]


def _lists(array: pa.Array, addresses: bool) -> list[Any]:
    items = iter(values(array.flatten(), addresses))
    lengths = pc.list_value_length(array).to_pylist()
    return [None if length is None else [next(items) for _ in range(length)] for length in lengths]


def _safe_json(text: str) -> str:
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return _encode_ascii(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"
