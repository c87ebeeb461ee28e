"""Holds the drained events of one probe as whole columns; `decode` and `assemble` read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import field, frozen

from infrasight_core.plugin.arrays import map_distinct, numbers


@frozen
class Columns:
    """Events that were copied out of the blocks of one probe. `decode` gets them.

    Attributes:
        rows: The number of events.
        cpu: The CPU in whose block each event was (uint32).
        sequence: The event's slot number in that block since the probe was loaded (uint64), without
            gaps on each CPU.
        fixed: FIXED and CHARS columns by name: NumPy arrays of `rows` elements (`S<width>` for
            CHARS).
        texts: TEXT columns by name: offsets (int32, `rows + 1`, from 0) and bytes (uint8).
        flags: The probe's own bits of `quality`, in order; they follow the bits of its texts.
    """

    rows: int
    cpu: npt.NDArray[np.uint32]
    sequence: npt.NDArray[np.uint64]
    fixed: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]] = field(factory=dict)
    flags: tuple[str, ...] = ()

    def select(self, kept: npt.NDArray[np.bool_]) -> "Columns":
        """Returns the rows for which `kept` is true."""
        texts = {}
        for name, (offsets, data) in self.texts.items():
            lengths = np.diff(offsets)
            kept_offsets = np.zeros(np.count_nonzero(kept) + 1, np.int32)
            np.cumsum(lengths[kept], out=kept_offsets[1:])
            texts[name] = (kept_offsets, data[np.repeat(kept, lengths)])
        return Columns(
            rows=int(np.count_nonzero(kept)),
            cpu=self.cpu[kept],
            sequence=self.sequence[kept],
            fixed={name: values[kept] for name, values in self.fixed.items()},
            texts=texts,
            flags=self.flags,
        )

    def array(self, name: str) -> pa.Array:
        """Returns a column as an Arrow array.

        Numbers become a primitive array, CHARS a dictionary of binary up to the first NUL, TEXT a
        binary array.
        """
        if name in self.texts:
            offsets, data = self.texts[name]
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
            return pa.Array.from_buffers(pa.binary(), self.rows, buffers)
        values = self.fixed[name]
        if values.dtype.kind != "S":
            return numbers(values)
        return map_distinct(
            values, lambda names: [name.split(b"\0", 1)[0] for name in names], pa.binary()
        )

    def whole(self, name: str) -> pa.Array:
        """Returns a CHARS column in its whole width, NULs included, such as an IP address."""
        values = self.fixed[name]
        buffers = [None, pa.py_buffer(values)]
        return pa.Array.from_buffers(pa.binary(values.itemsize), self.rows, buffers)

    def split(self, name: str, separator: int = 0) -> pa.ListArray:
        r"""Splits a TEXT column at each `separator` byte into lists of binary.

        Each part ends with a separator; the last part may lack it. `b"ls\0-l\0"` becomes
        `[b"ls", b"-l"]`, `b"\0"` becomes `[b""]`, and `b""` becomes `[]`.
        """
        offsets, data = self.texts[name]
        separators = np.flatnonzero(data == separator)
        row_ends = offsets[1:][np.diff(offsets) > 0]
        unterminated_ends = row_ends[data[row_ends - 1] != separator]
        # Where each part ends, its separator included.
        part_ends = np.sort(np.concatenate([separators + 1, unterminated_ends]))
        part_offsets = np.zeros(len(part_ends) + 1, np.int32)
        part_offsets[1:] = part_ends - np.searchsorted(separators, part_ends)
        text = data[data != separator]
        parts = pa.BinaryArray.from_buffers(
            pa.binary(), len(part_ends), [None, pa.py_buffer(part_offsets), pa.py_buffer(text)]
        )
        row_offsets = np.searchsorted(part_ends, offsets, side="right").astype(np.int32)
        list_type = pa.list_(pa.field("item", pa.binary(), nullable=False))
        return pa.ListArray.from_arrays(numbers(row_offsets), parts, type=list_type)
