"""The filter of `--where`: which events are shown, decided on whole columns."""

import fnmatch
import os
import re
from collections.abc import Iterable
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from infrasight_core.errors import ConfigError

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)
_SYNTAX = "write uid=NUMBER, pid=NUMBER, or comm=NAME, where NAME may contain * ? [abc]"
_COMM_BYTES = 15  # the kernel cuts longer names


@frozen
class Condition:
    """One condition `column=value`.

    Attributes:
        column: `uid`, `pid` or `comm`.
        value: A number for `uid` and `pid`, a glob pattern for `comm`.
    """

    column: str
    value: int | str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Reads `uid=...`, `pid=...` or `comm=...`. Raises ConfigError."""
        column, _, value = text.partition("=")
        if column in ("uid", "pid") and re.fullmatch("[0-9]{1,10}", value) and int(value) < 1 << 32:
            return cls(column, int(value))
        if column == "comm" and value:
            name = os.fsencode(value)
            if len(name) > _COMM_BYTES and not set(value) & set("*?["):
                shortened = name[:_COMM_BYTES].decode(errors="ignore")
                raise ConfigError(
                    f"--where {text!r}: the kernel cuts names to {_COMM_BYTES} bytes: "
                    f"write comm={shortened}"
                )
            return cls(column, value)
        raise ConfigError(f"--where {text!r}: {_SYNTAX}")

    def mask(self, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
        """True where the column's value matches; evaluated once per distinct name."""
        if isinstance(self.value, int):
            return pc.equal(column, self.value)
        pattern = re.compile(os.fsencode(fnmatch.translate(self.value)), re.DOTALL)
        masks = []
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            if not pa.types.is_dictionary(chunk.type):
                chunk = chunk.dictionary_encode()
            names = chunk.dictionary.to_pylist()
            matches = [pattern.fullmatch(name) is not None for name in names]
            masks.append(pa.array(matches, pa.bool_()).take(chunk.indices))
        return pa.chunked_array(masks, pa.bool_())


@frozen
class Where:
    """Conditions that must all match; without any, every row does."""

    conditions: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, expressions: Iterable[str]) -> "Where":
        """Reads each expression. Raises ConfigError, which names the syntax."""
        return cls(tuple(Condition.parse(text) for text in expressions))

    def apply(self, rows: Rows) -> Rows:
        """The rows that match all conditions."""
        for condition in self.conditions:
            mask = condition.mask(rows.column(condition.column))
            if isinstance(rows, pa.RecordBatch) and isinstance(mask, pa.ChunkedArray):
                mask = mask.combine_chunks()
            rows = rows.filter(mask)
        return rows
