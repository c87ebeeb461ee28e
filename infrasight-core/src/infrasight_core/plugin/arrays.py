"""Builds Arrow arrays from columns and short lists, for `decode`, `assemble` and `enrich`.

Arrays are built from their buffers. `pyarrow.array` and `to_numpy` import pandas at their first
call wherever pandas is installed: that takes seconds in which blocks fill, and 60 MB of memory.
"""

import ctypes
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc  # at module level: its first import must not happen while blocks fill

_M_TRIM_THRESHOLD = -1  # mallopt(3)
_M_MMAP_THRESHOLD = -3


def recycle_memory() -> None:
    """Makes glibc reuse freed memory for the next batch instead of returning it to the kernel.

    Otherwise page faults account for two thirds of the cost of copying a column. See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def numbers(
    values: npt.NDArray[Any],
    arrow_type: pa.DataType | None = None,
    nulls: npt.NDArray[np.bool_] | None = None,
) -> pa.Array:
    """Wraps a NumPy array in a primitive Arrow array without a copy.

    Args:
        values: The values, contiguous in memory.
        arrow_type: The Arrow type; None for the one that corresponds to the NumPy type.
        nulls: Which rows are null; None for no row.
    """
    arrow_type = arrow_type or pa.from_numpy_dtype(values.dtype)
    validity = None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little"))
    return pa.Array.from_buffers(arrow_type, len(values), [validity, pa.py_buffer(values)])


def strings(values: Sequence[bytes | str], arrow_type: pa.DataType) -> pa.Array:
    """Builds a binary or string array of a few values."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    offsets = _offsets(encoded)
    data = pa.py_buffer(b"".join(encoded))
    return pa.Array.from_buffers(arrow_type, len(encoded), [None, pa.py_buffer(offsets), data])


def map_array(values: Sequence[Sequence[tuple[Any, Any]]], arrow_type: pa.DataType) -> pa.MapArray:
    """Builds a map array of a few values, each the key-value pairs of one map."""
    pairs = [pair for value in values for pair in value]
    keys = _small_array([key for key, _ in pairs], arrow_type.key_type)
    items = _small_array([item for _, item in pairs], arrow_type.item_type)
    return pa.MapArray.from_arrays(numbers(_offsets(values)), keys, items, type=arrow_type)


def constant(value: Any, rows: int, value_type: pa.DataType) -> pa.DictionaryArray:
    """Builds a dictionary array that holds the same value in every row."""
    indices = numbers(np.zeros(rows, np.int32))
    return pa.DictionaryArray.from_arrays(indices, _small_array([value], value_type))


def empty_values(rows: int, arrow_type: pa.DataType) -> pa.Array:
    """Builds an array of the type's empty value: 0, no bytes, no items."""
    if pa.types.is_dictionary(arrow_type):
        return constant(empty_value(arrow_type), rows, arrow_type.value_type)
    offsets = np.zeros(rows + 1, np.int32)
    if pa.types.is_list(arrow_type):
        items = empty_values(0, arrow_type.value_type)
        return pa.ListArray.from_arrays(numbers(offsets), items, type=arrow_type)
    if pa.types.is_map(arrow_type):
        keys = empty_values(0, arrow_type.key_type)
        items = empty_values(0, arrow_type.item_type)
        return pa.MapArray.from_arrays(numbers(offsets), keys, items, type=arrow_type)
    if pa.types.is_binary(arrow_type) or pa.types.is_string(arrow_type):
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"")]
        return pa.Array.from_buffers(arrow_type, rows, buffers)
    if pa.types.is_fixed_size_binary(arrow_type):
        data = pa.py_buffer(bytes(rows * arrow_type.byte_width))
        return pa.Array.from_buffers(arrow_type, rows, [None, data])
    return numbers(np.zeros(rows, np.int64)).cast(arrow_type)


def empty_value(arrow_type: pa.DataType) -> Any:
    """Returns the Python value that stands for nothing in this type: protobuf's default value."""
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if pa.types.is_nested(arrow_type):
        return []
    if pa.types.is_binary(arrow_type):
        return b""
    if pa.types.is_fixed_size_binary(arrow_type):
        return bytes(arrow_type.byte_width)
    if pa.types.is_string(arrow_type):
        return ""
    return False if pa.types.is_boolean(arrow_type) else 0


def view(array: pa.Array) -> npt.NDArray[Any]:
    """Returns the values of a primitive array without nulls as a NumPy array, without a copy."""
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]


def null_rows(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Returns which rows of an array are null."""
    return view(array.is_null().cast(pa.uint8())).astype(bool)


def map_distinct(
    values: npt.NDArray[Any] | pa.Array,
    function: Callable[[list[Any]], Sequence[Any]],
    value_type: pa.DataType,
) -> pa.DictionaryArray:
    """Maps each distinct value of a column once, such as an id to its name.

    Consecutive events often come from one process. Runs of equal neighbors are therefore found
    first, and only the first value of each run is hashed.

    Args:
        values: The column. For a dictionary array, the function gets the dictionary's values, and
            None if there are nulls.
        function: Takes the list of distinct values and returns as many results, None for a result
            that is missing.
        value_type: The Arrow type of a result.

    Returns:
        A dictionary array (int32 indices) of the length of `values`, null where the result is
        None. Its dictionary holds no value twice, because ClickHouse rejects that.
    """
    if isinstance(values, pa.DictionaryArray):
        dictionary = [*values.dictionary.to_pylist(), None]
        codes = view(pc.fill_null(values.indices.cast(pa.int32()), len(dictionary) - 1))
        return map_distinct(
            codes,
            lambda distinct: function([dictionary[code] for code in distinct]),
            value_type,
        )
    column = values if isinstance(values, np.ndarray) else view(values)
    starts = run_starts(column)
    if len(starts) == 1:  # the usual batch of one process: nothing to hash
        indices = np.zeros(len(column), np.int32)
        return dictionary_array(indices, list(function([column[0].item()])), value_type)
    heads = _primitive_or_bytes(column[starts]).dictionary_encode()
    results = function(heads.dictionary.to_pylist())
    distinct_results = list(dict.fromkeys(results))  # two ids may share a name
    index_of = {result: index for index, result in enumerate(distinct_results)}
    indices = np.array([index_of[result] for result in results], np.int32)[view(heads.indices)]
    run_lengths = np.diff(starts, append=len(column))
    return dictionary_array(np.repeat(indices, run_lengths), distinct_results, value_type)


def map_distinct_lists(
    values: npt.NDArray[Any],
    function: Callable[[list[Any]], Sequence[Sequence[Any]]],
    item_type: pa.DataType,
) -> pa.ListArray:
    """Maps each distinct value of a column to a list once, such as a mask to the names of its bits.

    Args:
        values: The column.
        function: Takes the list of distinct values and returns as many lists.
        item_type: The Arrow type of a list's item.

    Returns:
        A list array of the length of `values`, with dictionary-encoded items (int32 indices).
    """
    encoded = map_distinct(values, lambda distinct: distinct, pa.from_numpy_dtype(values.dtype))
    lists = function(encoded.dictionary.to_pylist())
    distinct_items = list(dict.fromkeys(item for items in lists for item in items))
    index_of = {item: index for index, item in enumerate(distinct_items)}
    lengths = np.array([len(items) for items in lists], np.int32)
    indices = np.array([index_of[item] for items in lists for item in items], np.int32)
    offsets = np.zeros(len(values) + 1, np.int32)
    if len(lists) == 1:
        offsets[:] = np.arange(len(values) + 1, dtype=np.int32) * lengths[0]
        row_indices = np.tile(indices, len(values))
    else:
        list_of_row = view(encoded.indices)
        row_lengths = lengths[list_of_row]
        np.cumsum(row_lengths, out=offsets[1:])
        list_starts = np.cumsum(lengths) - lengths
        shifts = list_starts[list_of_row] - offsets[:-1]
        row_indices = indices[
            np.arange(offsets[-1], dtype=np.int32) + np.repeat(shifts, row_lengths)
        ]
    dictionary = _small_array(distinct_items, item_type)
    items = pa.DictionaryArray.from_arrays(numbers(row_indices), dictionary)
    list_type = pa.list_(pa.field("item", items.type, nullable=False))
    return pa.ListArray.from_arrays(numbers(offsets), items, type=list_type)


def dictionary_array(
    indices: npt.NDArray[np.int32], values: list[Any], value_type: pa.DataType
) -> pa.DictionaryArray:
    """Builds a dictionary array from int32 indices and distinct values; None makes rows null."""
    if None not in values:
        dictionary = _small_array(values, value_type)
        return pa.DictionaryArray.from_arrays(numbers(indices), dictionary, safe=False)
    none_index = values.index(None)
    nulls = indices == none_index
    indices = indices - (indices > none_index).astype(np.int32)
    indices[nulls] = 0
    dictionary = _small_array(values[:none_index] + values[none_index + 1 :], value_type)
    return pa.DictionaryArray.from_arrays(numbers(indices, nulls=nulls), dictionary, safe=False)


def run_starts(column: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the row at which each run of equal neighbors begins; none for an empty column.

    Fixed-width strings are compared word by word.
    """
    words = [column]
    if column.dtype.kind == "S":
        size = next(size for size in (8, 4, 2, 1) if column.itemsize % size == 0)
        words = list(column.view(f"<u{size}").reshape(len(column), column.itemsize // size).T)
    starts = np.zeros(len(column), bool)
    starts[:1] = True
    for word in words:
        starts[1:] |= word[1:] != word[:-1]
    return np.flatnonzero(starts)


def _offsets(values: Sequence[Any]) -> npt.NDArray[np.int32]:
    return np.fromiter(accumulate(map(len, values), initial=0), np.int32, len(values) + 1)


def _primitive_or_bytes(values: npt.NDArray[Any]) -> pa.Array:
    if values.dtype.kind != "S":
        return numbers(values)
    data = pa.py_buffer(values.tobytes())
    return pa.Array.from_buffers(pa.binary(values.dtype.itemsize), len(values), [None, data])


def _small_array(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    if pa.types.is_binary(arrow_type) or pa.types.is_string(arrow_type):
        return strings(values, arrow_type)
    if pa.types.is_primitive(arrow_type):
        return numbers(np.array(values, arrow_type.to_pandas_dtype()), arrow_type)
    if pa.types.is_map(arrow_type):
        return map_array(values, arrow_type)
    return pa.array(values, arrow_type)
