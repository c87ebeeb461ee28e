"""The filter of `--where`: which events to show, decided on whole columns."""

import fnmatch
import re
from collections.abc import Iterable
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from infrasight_core.errors import ConfigError

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)
_HELP = "write uid=NUMBER, pid=NUMBER, or comm=NAME, where NAME may hold * ? [abc]"
_COMM_BYTES = 15  # the kernel keeps no more of a name


@frozen
class Condition:
    """One `column=value`.

    Attributes:
        column: `uid`, `pid` or `comm`.
        value: A number for `uid` and `pid`, a glob pattern for `comm`.
    """

    column: str
    value: int | str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Reads `uid=…`, `pid=…` or `comm=…`. Raises ConfigError."""
        column, _, value = text.partition("=")
        if column in ("uid", "pid") and re.fullmatch("[0-9]{1,10}", value) and int(value) < 1 << 32:
            return cls(column, int(value))
        if column == "comm" and value:
            if len(value.encode()) > _COMM_BYTES and not set(value) & set("*?["):
                cut = value.encode()[:_COMM_BYTES].decode(errors="ignore")
                raise ConfigError(
                    f"--where {text!r}: the kernel keeps {_COMM_BYTES} bytes of a name: write comm={cut}"
                )
            return cls(column, value)
        raise ConfigError(f"--where {text!r}: {_HELP}")

    def mask(self, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
        """True where the column's value fits."""
        if isinstance(self.value, int):
            return pc.equal(column, self.value)
        fits = re.compile(fnmatch.translate(self.value).encode("utf-8"), re.DOTALL).fullmatch
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        encoded = [c if pa.types.is_dictionary(c.type) else c.dictionary_encode() for c in chunks]
        masks = [
            pa.array([fits(n) is not None for n in c.dictionary.to_pylist()], pa.bool_()).take(
                c.indices
            )
            for c in encoded
        ]
        return pa.chunked_array(masks, pa.bool_())


@frozen
class Where:
    """Conditions that must all hold; with none, everything does."""

    conditions: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, expressions: Iterable[str]) -> "Where":
        """Reads each expression. Raises ConfigError, which says what is allowed."""
        return cls(tuple(Condition.parse(text) for text in expressions))

    def apply(self, rows: Rows) -> Rows:
        """The rows for which all conditions hold; a dictionary column is judged once per distinct value."""
        for condition in self.conditions:
            mask = condition.mask(rows.column(condition.column))
            rows = rows.filter(
                mask
                if isinstance(rows, pa.Table) or isinstance(mask, pa.Array)
                else mask.combine_chunks()
            )
        return rows
