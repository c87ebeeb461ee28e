"""Rows as text for people and for pipes. Nothing that a program may put into a name reaches a terminal as it is."""

import json
import math
import re
import shlex
import socket
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infrasight_core.plugin.schema import IP_ADDRESS, IP_ADDRESS_MARK

# What a terminal obeys or hides although JSON lets it pass: C1 controls, and marks that turn the direction of text.
_UNSAFE = re.compile(
    "[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_ROWS = 4096
_IPV4 = bytes(10) + b"\xff\xff"
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str
).encode


def json_lines(table: pa.Table) -> Iterator[str]:
    """One JSON object per row, without a newline, keys in the order of the columns.

    Bytes are shown as UTF-8, what is not as `\\xNN`; timestamps as ISO 8601 in UTC with all digits that their unit has; NaN
    and infinity, which JSON lacks, as null; IP addresses as people write them, see `address`. A name that comes twice gets
    `_2` at its end the second time.
    """
    keys = unique_names(table.column_names)
    for batch in table.to_batches(max_chunksize=_ROWS):
        for row in rows_of(batch):
            yield _safe_json(_encode(dict(zip(keys, row, strict=True))))


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows as what JSON can say."""
    columns = [
        values(column, is_address(field))
        for column, field in zip(batch.columns, batch.schema, strict=True)
    ]
    return zip(*columns, strict=True)


def is_address(field: pa.Field) -> bool:
    """Whether a column is of IP addresses: 16 bytes alone do not say so."""
    return IP_ADDRESS_MARK.items() <= (field.metadata or {}).items()


def address(value: bytes) -> str:
    """An IP address as people write it: of the 16 bytes that a column has, those of IPv4 as `10.0.0.1`; `::` is none."""
    if value.startswith(_IPV4):
        return socket.inet_ntop(socket.AF_INET, value[len(_IPV4) :])
    return socket.inet_ntop(socket.AF_INET6, value)


def unique_names(names: list[str]) -> list[str]:
    """The names, a repeated one with `_2`, `_3` … at its end."""
    unique: list[str] = []
    for name in names:
        new, number = name, 2
        while new in unique:
            new, number = f"{name}_{number}", number + 1
        unique.append(new)
    return unique


def shown(value: bytes) -> str:
    """Bytes as text: UTF-8, and `\\xNN` for what is not."""
    return value.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text that a terminal only prints: control characters and invisible ones are escaped as Python writes them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(argument: bytes) -> str:
    """An argument as it could be typed into a shell, `$'…'` where it holds what cannot be typed."""
    text = shown(argument)
    if text.isprintable() and text.encode() == argument:
        return shlex.quote(text)
    escaped = argument.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
    return f"$'{printable(shown(escaped))}'"


def values(array: pa.Array, addresses: bool = False) -> list[Any]:
    """A column as what JSON can say; see `json_lines`. What has 16 bytes is an IP address if the caller says so."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return values(array.storage, addresses)
    if pa.types.is_dictionary(kind):
        distinct = values(array.dictionary, addresses)
        return [None if index is None else distinct[index] for index in array.indices.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # The store's strings hold any bytes, and Arrow would not decode those that are not UTF-8.
        return values(
            array.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
        )
    if addresses and kind == IP_ADDRESS:
        return [None if value is None else address(value) for value in array.to_pylist()]
    if (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return [None if value is None else shown(value) for value in array.to_pylist()]
    if pa.types.is_timestamp(kind):
        utc = array.cast(pa.timestamp(kind.unit, "UTC")) if kind.tz else array
        return [
            None if text is None else text.replace(" ", "T")
            for text in utc.cast(pa.string()).to_pylist()
        ]
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_decimal(kind):
        return list(array.cast(pa.string()).to_pylist())
    if pa.types.is_duration(kind):
        return list(array.cast(pa.int64()).to_pylist())
    if pa.types.is_floating(kind):
        return [
            None if value is None or not math.isfinite(value) else value
            for value in array.to_pylist()
        ]
    return _nested(array, addresses)


def _nested(array: pa.Array, addresses: bool) -> list[Any]:
    kind = array.type
    if pa.types.is_map(kind):
        ends = array.offsets.to_pylist()
        first, length = ends[0], ends[-1] - ends[0]
        pairs = list(
            zip(
                _keys(array.keys.slice(first, length)),
                values(array.items.slice(first, length)),
                strict=True,
            )
        )
        spans = zip(ends, ends[1:], array.is_valid().to_pylist(), strict=False)
        return [
            dict(pairs[start - first : end - first]) if valid else None
            for start, end, valid in spans
        ]
    if pa.types.is_struct(kind):
        names = unique_names([field.name for field in kind])
        rows = zip(array.is_valid().to_pylist(), *map(values, array.flatten()), strict=True)
        return [dict(zip(names, row, strict=True)) if valid else None for valid, *row in rows]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        items = iter(values(array.flatten(), addresses))
        lengths = pc.list_value_length(array).to_pylist()
        return [
            None if length is None else [next(items) for _ in range(length)] for length in lengths
        ]
    return list(array.to_pylist())


def _keys(array: pa.Array) -> list[str]:
    return [str(key) for key in values(array)]


def _safe_json(text: str) -> str:
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return _encode_ascii(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"


_encode_ascii = json.JSONEncoder(ensure_ascii=True).encode
