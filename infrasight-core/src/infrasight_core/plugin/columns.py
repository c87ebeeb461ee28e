"""The events of one probe as whole columns, as they come out of its blocks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import field, frozen

from infrasight_core.plugin.arrays import map_distinct, numbers


@frozen
class Columns:
    """What `decode` gets: the events that waited in the blocks of one probe, copied out of them.

    Attributes:
        rows: The number of events.
        cpu: Whose block each event was in (uint32).
        sequence: Its slot number there since the probe was loaded (uint64); gapless on each CPU.
        fixed: FIXED and CHARS columns by name, NumPy arrays of `rows` elements (`S<width>` for CHARS).
        texts: TEXT columns by name: offsets (int32, `rows + 1`, from 0) and bytes (uint8).
        flags: The probe's own bits of `quality`, in order, behind those of its texts.
    """

    rows: int
    cpu: npt.NDArray[np.uint32]
    sequence: npt.NDArray[np.uint64]
    fixed: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]] = field(factory=dict)
    flags: tuple[str, ...] = ()

    def array(self, name: str) -> pa.Array:
        """One column as Arrow has it: numbers as they are, CHARS as a dictionary of binary, TEXT as binary."""
        if name in self.texts:
            offsets, data = self.texts[name]
            return pa.Array.from_buffers(
                pa.binary(), self.rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
            )
        values = self.fixed[name]
        if values.dtype.kind != "S":
            return numbers(values)
        return map_distinct(
            values, lambda names: [n.split(b"\0", 1)[0] for n in names], pa.binary()
        )

    def whole(self, name: str) -> pa.Array:
        """A CHARS column in its whole width, NULs and all, as `fixed_size_binary`: an address."""
        values = self.fixed[name]
        return pa.Array.from_buffers(
            pa.binary(values.itemsize), self.rows, [None, pa.py_buffer(values)]
        )

    def split(self, name: str, separator: int = 0) -> pa.ListArray:
        """A TEXT column cut at each `separator` byte into lists of binary; each part ends with one, the last may lack it.

        `b"ls\\0-l\\0"` is `[b"ls", b"-l"]`, `b"\\0"` is `[b""]`, `b""` is `[]`.
        """
        offsets, data = self.texts[name]
        separators = np.flatnonzero(data == separator)
        row_ends = offsets[1:][np.diff(offsets) > 0]
        unfinished = row_ends[data[row_ends - 1] != separator]
        after = np.sort(
            np.concatenate([separators + 1, unfinished])
        )  # where each part, with its separator, is over
        parts = np.zeros(len(after) + 1, np.int32)
        parts[1:] = after - np.searchsorted(separators, after)
        rows = np.searchsorted(after, offsets, side="right").astype(np.int32)
        values = pa.BinaryArray.from_buffers(
            pa.binary(),
            len(after),
            [None, pa.py_buffer(parts), pa.py_buffer(data[data != separator])],
        )
        return pa.ListArray.from_arrays(
            numbers(rows), values, type=pa.list_(pa.field("item", pa.binary(), nullable=False))
        )
