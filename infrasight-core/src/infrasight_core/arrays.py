"""Arrow arrays from NumPy columns and short Python lists, and back, by their buffers.

`pyarrow.array` and `to_numpy` import pandas at their first call wherever pandas is installed: seconds in which blocks fill,
and 60 MB for the agent's whole life.
"""

import ctypes
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # here, because the first call that needs it would import it while blocks fill

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def recycle_memory() -> None:
    """Tells glibc to keep freed memory for the next batch, rather than give it back and fault it in again page by page.

    Two thirds of what a copied column costs are page faults otherwise. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another libc than glibc has none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def numbers(values: npt.NDArray[Any], kind: pa.DataType | None = None) -> pa.Array:
    """A primitive array over the NumPy array's own memory, which must be contiguous; its type unless `kind` says another."""
    kind = kind or pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def view(array: pa.Array) -> npt.NDArray[Any]:
    """A primitive array's values as NumPy sees them, without a copy; it must have no nulls."""
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]


def strings(values: Sequence[bytes | str], kind: pa.DataType) -> pa.Array:
    """A binary or string array of a few values."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    offsets = np.fromiter(accumulate(map(len, encoded), initial=0), np.int32, len(encoded) + 1)
    return pa.Array.from_buffers(kind, len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))])


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
        A dictionary array (int32 indices) of the length of `values`; a result that several values have stands in it once.
    """
    column = values if isinstance(values, np.ndarray) else view(values)
    starts = run_starts(column)
    if len(starts) == 1:  # one process, as a rule: no hashing
        zeros = numbers(np.zeros(len(column), np.int32))
        return pa.DictionaryArray.from_arrays(zeros, _few(function([column[0].item()]), value_type), safe=False)
    heads = column[starts]
    if heads.dtype.kind == "S":
        width = heads.dtype.itemsize
        encoded = pa.Array.from_buffers(pa.binary(width), len(heads), [None, pa.py_buffer(heads.tobytes())]).dictionary_encode()
    else:
        encoded = numbers(heads).dictionary_encode()
    results = function(encoded.dictionary.to_pylist())
    codes = {result: code for code, result in enumerate(dict.fromkeys(results))}  # ClickHouse refuses a value that comes twice
    joined = np.array([codes[result] for result in results], np.int32)[view(encoded.indices)]
    indices = np.repeat(joined, np.diff(starts, append=len(column)))
    return pa.DictionaryArray.from_arrays(numbers(indices), _few(list(codes), value_type))


def run_starts(column: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where each run of equal neighbours begins; empty for an empty column. Strings of a fixed width are compared by words."""
    words = [column]
    if column.dtype.kind == "S":
        size = next(size for size in (8, 4, 2, 1) if column.itemsize % size == 0)
        words = list(column.view(f"<u{size}").reshape(len(column), column.itemsize // size).T)
    changed = np.zeros(len(column), bool)
    changed[:1] = True
    for word in words:
        changed[1:] |= word[1:] != word[:-1]
    return np.flatnonzero(changed)


def _few(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return strings(values, kind)
    if pa.types.is_primitive(kind):
        return numbers(np.array(values, kind.to_pandas_dtype()), kind)
    return pa.array(values, kind)


def constant(value: Any, rows: int, value_type: pa.DataType) -> pa.DictionaryArray:
    """A dictionary column with the same value in every row."""
    return pa.DictionaryArray.from_arrays(numbers(np.zeros(rows, np.int32)), _few([value], value_type))


def map_distinct_lists(
    values: npt.NDArray[Any], function: Callable[[list[Any]], Sequence[Sequence[Any]]], item_type: pa.DataType
) -> pa.ListArray:
    """Looks each distinct value up once, as `map_distinct` does, where the result is a list: the names of a mask's bits.

    Args:
        values: One column.
        function: Gets the distinct values, returns as many lists.
        item_type: The Arrow type of a list's item.

    Returns:
        A list array of the length of `values`, whose items are dictionary-encoded (int32 indices).
    """
    encoded = map_distinct(values, lambda distinct: distinct, pa.from_numpy_dtype(values.dtype))
    lists = function(encoded.dictionary.to_pylist())
    names = list(dict.fromkeys(item for items in lists for item in items))
    code_of = {name: code for code, name in enumerate(names)}
    lengths = np.array([len(items) for items in lists], np.int32)
    flat = np.array([code_of[item] for items in lists for item in items], np.int32)
    offsets = np.zeros(len(values) + 1, np.int32)
    if len(lists) == 1:
        offsets[:] = np.arange(len(values) + 1, dtype=np.int32) * lengths[0]
        codes = np.tile(flat, len(values))
    else:
        which, starts = view(encoded.indices), np.cumsum(lengths) - lengths
        np.cumsum(lengths[which], out=offsets[1:])
        codes = flat[np.arange(offsets[-1], dtype=np.int32) + np.repeat(starts[which] - offsets[:-1], lengths[which])]
    items = pa.DictionaryArray.from_arrays(numbers(codes), _few(names, item_type))
    kind = pa.list_(pa.field("item", items.type, nullable=False))
    return pa.ListArray.from_arrays(numbers(offsets), items, type=kind)


def quality_names(
    masks: npt.NDArray[np.uint64], texts: Sequence[str], always: Sequence[str] = (), flags: Sequence[str] = ()
) -> pa.ListArray:
    """The bits of `quality` as lists of names; see `infrasight.bpf.h` for the bits.

    Args:
        masks: One mask per row.
        texts: The block's TEXT columns in order.
        always: Further names that every row has.
        flags: The probe's own flags in order, behind the bits of its texts.
    """
    bits = ["entry_missing", *(f"{text}_{what}" for text in texts for what in ("cut", "missing", "user_memory")), *flags]

    def names_of(distinct: list[int]) -> list[list[str]]:
        return [[*(name for bit, name in enumerate(bits) if mask >> bit & 1), *always] for mask in distinct]

    return map_distinct_lists(masks, names_of, pa.string())
