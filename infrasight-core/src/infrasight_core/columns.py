"""A slice of one CPU's block, as whole columns, and what turns such columns into Arrow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from attrs import field, frozen


@frozen
class Columns:
    """What `decode` gets: views into the block, valid only until it returns.

    Attributes:
        rows: The number of events.
        cpu: Whose block it is.
        first: The slot number of the first event since the probe was loaded; the next ones follow without a gap.
        fixed: FIXED and CHARS columns by name, NumPy views of `rows` elements (`S<width>` for CHARS).
        texts: TEXT columns by name: offsets (int32, `rows + 1`, from 0) and bytes (uint8 view).
    """

    rows: int
    cpu: int
    first: int
    fixed: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]] = field(factory=dict)

    def array(self, name: str) -> pa.Array:
        """A copy of one column that Arrow owns: numbers as they are, CHARS as a dictionary of binary, TEXT as binary."""
        if name in self.texts:
            offsets, data = self.texts[name]
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data.tobytes())]
            return pa.BinaryArray.from_buffers(pa.binary(), self.rows, buffers)
        values = self.fixed[name]
        if values.dtype.kind != "S":
            return pa.array(values.copy())
        return map_distinct(values, lambda names: [n.split(b"\0", 1)[0] for n in names], pa.binary())

    def split(self, name: str, separator: int = 0) -> pa.ListArray:
        """A TEXT column cut at each `separator` byte into lists of binary; each part ends with one, the last may lack it.

        `b"ls\\0-l\\0"` is `[b"ls", b"-l"]`, `b"\\0"` is `[b""]`, `b""` is `[]`.
        """
        offsets, data = self.texts[name]
        separators = np.flatnonzero(data == separator)
        row_ends = offsets[1:][np.diff(offsets) > 0]
        unfinished = row_ends[data[row_ends - 1] != separator]
        after = np.sort(np.concatenate([separators + 1, unfinished]))  # where each part, with its separator, is over
        parts = np.zeros(len(after) + 1, np.int32)
        parts[1:] = after - np.searchsorted(separators, after)
        rows = np.searchsorted(after, offsets, side="right").astype(np.int32)
        values = pa.BinaryArray.from_buffers(
            pa.binary(), len(after), [None, pa.py_buffer(parts), pa.py_buffer(data[data != separator].tobytes())]
        )
        return pa.ListArray.from_arrays(pa.array(rows), values, type=pa.list_(pa.field("item", pa.binary(), nullable=False)))


def map_distinct(
    values: npt.NDArray[Any] | pa.Array, function: Callable[[list[Any]], Sequence[Any]], value_type: pa.DataType
) -> pa.DictionaryArray:
    """Looks each distinct value up once and joins the results by index, for names of ids and the like.

    Runs of equal neighbours, which is what one process makes, are found first, so that only their heads are hashed.

    Args:
        values: One column.
        function: Gets the distinct values, returns as many results.
        value_type: The Arrow type of a result.

    Returns:
        A dictionary array (int32 indices) of the length of `values`.
    """
    column = values if isinstance(values, np.ndarray) else values.to_numpy(zero_copy_only=False)
    if not len(column):
        return pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], value_type))
    words = column.view("<u8").reshape(len(column), -1) if column.dtype.kind == "S" and column.itemsize % 8 == 0 else column[:, None]
    starts = np.ones(len(column), bool)
    np.any(words[1:] != words[:-1], axis=1, out=starts[1:])
    heads = column[starts]
    if heads.dtype.kind == "S":
        width = heads.dtype.itemsize
        encoded = pa.Array.from_buffers(pa.binary(width), len(heads), [None, pa.py_buffer(heads.tobytes())]).dictionary_encode()
    else:
        encoded = pa.array(heads).dictionary_encode()
    results = pa.array(function(encoded.dictionary.to_pylist()), value_type)
    indices = encoded.indices.to_numpy()[np.cumsum(starts, dtype=np.int32) - 1]
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), results)


def constant(value: Any, rows: int, value_type: pa.DataType) -> pa.DictionaryArray:
    """A dictionary column with the same value in every row."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], value_type))


def quality_names(masks: npt.NDArray[np.uint64], texts: Sequence[str]) -> pa.ListArray:
    """The bits of `quality` as lists of names; see `infrasight.bpf.h` for the bits.

    Args:
        masks: One mask per row.
        texts: The block's TEXT columns in order.
    """
    kind = pa.list_(pa.field("item", pa.string(), nullable=False))
    if not masks.any():
        offsets = pa.py_buffer(np.zeros(len(masks) + 1, np.int32))
        return pa.Array.from_buffers(kind, len(masks), [None, offsets], children=[pa.array([], pa.string())])
    names = ["entry_missing", *(f"{text}_{what}" for text in texts for what in ("cut", "missing", "user_memory"))]
    encoded = map_distinct(masks, lambda distinct: [[n for i, n in enumerate(names) if mask >> i & 1] for mask in distinct], kind)
    return pc.take(encoded.dictionary, encoded.indices)
