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
import pyarrow.compute as pc  # here, because the first call that needs it would import it while blocks fill

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def recycle_memory() -> None:
    """Tells glibc to keep freed memory for the next batch, rather than give it back and fault it in again page by page.

    Two thirds of what a copied column costs are page faults otherwise. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another libc than glibc has none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def numbers(
    values: npt.NDArray[Any],
    kind: pa.DataType | None = None,
    absent: npt.NDArray[np.bool_] | None = None,
) -> pa.Array:
    """A primitive array over the NumPy array's own memory, which must be contiguous; its type unless `kind` says another; null
    where `absent` says so."""
    kind = kind or pa.from_numpy_dtype(values.dtype)
    valid = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)])


def without_nulls(array: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The array with the type's empty value (0, no bytes, no items) in place of each null, and where the nulls were."""
    absent = view(array.is_null().cast(pa.uint8())).astype(bool)
    kind = array.type
    if pa.types.is_dictionary(kind):
        nothing: Any = b"" if pa.types.is_binary(kind.value_type) else ""
        known = array.dictionary.to_pylist()
        code = known.index(nothing) if nothing in known else len(known)
        codes = np.where(absent, code, view(array.indices)).astype(np.int32)
        values = array.dictionary if code < len(known) else _few([*known, nothing], kind.value_type)
        return pa.DictionaryArray.from_arrays(numbers(codes), values), absent
    if pa.types.is_primitive(kind):
        return numbers(
            np.where(absent, 0, view(array)).astype(kind.to_pandas_dtype()), kind
        ), absent
    return array.fill_null(
        [] if pa.types.is_nested(kind) else b"" if pa.types.is_binary(kind) else ""
    ), absent


def view(array: pa.Array) -> npt.NDArray[Any]:
    """A primitive array's values as NumPy sees them, without a copy; it must have no nulls."""
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]


def strings(values: Sequence[bytes | str], kind: pa.DataType) -> pa.Array:
    """A binary or string array of a few values."""
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    offsets = np.fromiter(accumulate(map(len, encoded), initial=0), np.int32, len(encoded) + 1)
    return pa.Array.from_buffers(
        kind, len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def map_distinct(
    values: npt.NDArray[Any] | pa.Array,
    function: Callable[[list[Any]], Sequence[Any]],
    value_type: pa.DataType,
) -> pa.DictionaryArray:
    """Looks each distinct value up once and joins the results by index, for names of ids and the like.

    Runs of equal neighbours, which is what one process makes, are found first, so that only their heads are hashed.

    Args:
        values: One column; of a dictionary column, the values that it stands for, None for null.
        function: Gets the distinct values, returns as many results; None where it could not be had.
        value_type: The Arrow type of a result.

    Returns:
        A dictionary array (int32 indices) of the length of `values`, null where the result was None; no value stands in the
        dictionary twice, which ClickHouse would refuse.
    """
    if isinstance(values, pa.DictionaryArray):
        known = [*values.dictionary.to_pylist(), None]
        codes = view(pc.fill_null(values.indices.cast(pa.int32()), len(known) - 1))
        return map_distinct(codes, lambda few: function([known[code] for code in few]), value_type)
    column = values if isinstance(values, np.ndarray) else view(values)
    starts = run_starts(column)
    if len(starts) == 1:  # one process, as a rule: no hashing
        return coded(
            np.zeros(len(column), np.int32), list(function([column[0].item()])), value_type
        )
    heads = column[starts]
    if heads.dtype.kind == "S":
        width = heads.dtype.itemsize
        encoded = pa.Array.from_buffers(
            pa.binary(width), len(heads), [None, pa.py_buffer(heads.tobytes())]
        ).dictionary_encode()
    else:
        encoded = numbers(heads).dictionary_encode()
    results = function(encoded.dictionary.to_pylist())
    code_of = {
        result: code for code, result in enumerate(dict.fromkeys(results))
    }  # two ids may have one name
    indices = np.array([code_of[result] for result in results], np.int32)[view(encoded.indices)]
    return coded(np.repeat(indices, np.diff(starts, append=len(column))), list(code_of), value_type)


def coded(
    indices: npt.NDArray[np.int32], values: list[Any], value_type: pa.DataType
) -> pa.DictionaryArray:
    """A dictionary array of int32 indices and values without a repetition, one of which may be None: those rows are null."""
    if None not in values:
        return pa.DictionaryArray.from_arrays(
            numbers(indices), _few(values, value_type), safe=False
        )
    nothing = values.index(None)
    absent = indices == nothing
    indices = indices - (indices > nothing).astype(np.int32)
    indices[absent] = 0
    del values[nothing]
    return pa.DictionaryArray.from_arrays(
        numbers(indices, absent=absent), _few(values, value_type), safe=False
    )


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
    if pa.types.is_map(kind):
        return maps(values, kind)
    return pa.array(values, kind)


def maps(values: Sequence[Sequence[tuple[Any, Any]]], kind: pa.DataType) -> pa.MapArray:
    """A map array of a few values, each the pairs of one map."""
    offsets = np.fromiter(accumulate(map(len, values), initial=0), np.int32, len(values) + 1)
    pairs = [pair for value in values for pair in value]
    keys, items = (
        _few([key for key, _ in pairs], kind.key_type),
        _few([item for _, item in pairs], kind.item_type),
    )
    return pa.MapArray.from_arrays(numbers(offsets), keys, items, type=kind)


def constant(value: Any, rows: int, value_type: pa.DataType) -> pa.DictionaryArray:
    """A dictionary column with the same value in every row."""
    return pa.DictionaryArray.from_arrays(
        numbers(np.zeros(rows, np.int32)), _few([value], value_type)
    )


def map_distinct_lists(
    values: npt.NDArray[Any],
    function: Callable[[list[Any]], Sequence[Sequence[Any]]],
    item_type: pa.DataType,
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
        codes = flat[
            np.arange(offsets[-1], dtype=np.int32)
            + np.repeat(starts[which] - offsets[:-1], lengths[which])
        ]
    items = pa.DictionaryArray.from_arrays(numbers(codes), _few(names, item_type))
    kind = pa.list_(pa.field("item", items.type, nullable=False))
    return pa.ListArray.from_arrays(numbers(offsets), items, type=kind)


def quality_bits(texts: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    """The names of the bits of `quality`; see `infrasight.bpf.h`.

    Args:
        texts: The block's TEXT columns in order.
        flags: The probe's own flags in order, behind the bits of its texts.
    """
    return [
        "entry_missing",
        *(f"{text}_{what}" for text in texts for what in ("cut", "missing", "user_memory")),
        *flags,
    ]


def quality_names(
    masks: npt.NDArray[np.uint64], bits: Sequence[str], always: Sequence[str] = ()
) -> pa.ListArray:
    """The bits of `quality` as lists of names.

    Args:
        masks: One mask per row.
        bits: The name of each bit.
        always: Further names that every row has.
    """

    def names_of(distinct: list[int]) -> list[list[str]]:
        return [
            [*(name for bit, name in enumerate(bits) if mask >> bit & 1), *always]
            for mask in distinct
        ]

    return map_distinct_lists(masks, names_of, pa.string())
