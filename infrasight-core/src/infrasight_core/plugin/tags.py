"""The column `tags`: what several enrichers know of an event, side by side, still as columns.

An enricher gives one array of maps, best as a dictionary of the few that differ (`map_distinct(…, TAGS)`). Merging looks at
each combination that occurs once, and never at an event.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infrasight_core.plugin.arrays import maps, numbers, view

TAGS = pa.map_(pa.string(), pa.string())


def merged(arrays: Sequence[pa.Array]) -> pa.Array:
    """The maps of several enrichers as one array of `TAGS`.

    A key that two of them give has the first one's value. A row is null where one of them is, which `quality` will say, and
    has what the others gave all the same (`entries_kept`).

    Raises:
        pa.ArrowException: One is no array of maps from strings to strings.
    """
    encoded = [_encoded(array) for array in arrays]
    stacked = np.stack([codes for codes, _ in encoded], axis=1)
    combinations, which = np.unique(stacked, axis=0, return_inverse=True)
    known = [[*few, ()] for _, few in encoded]  # -1, which stands for null, is the last: nothing
    values = []
    for combination in combinations.tolist():
        pairs: dict[str, str] = {}
        for code, few in zip(combination, known, strict=True):
            pairs |= {key: value for key, value in few[code] if key not in pairs}
        values.append(tuple(pairs.items()))
    rows = maps(values, TAGS).take(numbers(which.reshape(-1).astype(np.int32)))
    absent = (stacked < 0).any(axis=1)
    if not absent.any():
        return rows
    valid = pa.py_buffer(np.packbits(~absent, bitorder="little"))
    entries = pa.StructArray.from_arrays(
        [rows.keys, rows.items], fields=[TAGS.key_field, TAGS.item_field]
    )
    return pa.Array.from_buffers(TAGS, len(rows), [valid, rows.buffers()[1]], children=[entries])


def entries_kept(array: pa.MapArray) -> pa.MapArray:
    """The maps with what stands in null ones, as valid ones."""
    return pa.MapArray.from_arrays(
        numbers(_offsets(array)), array.keys, array.items, type=array.type
    )


def _encoded(array: pa.Array) -> tuple[npt.NDArray[np.int32], list[tuple[tuple[str, str], ...]]]:
    """The code of each row's map, -1 for null, and the maps by code."""
    if pa.types.is_dictionary(array.type):
        codes = view(pc.fill_null(array.indices.cast(pa.int32()), -1))
        return codes, [tuple(pairs or ()) for pairs in array.dictionary.cast(TAGS).to_pylist()]
    array = array.cast(TAGS)
    offsets, codes = _offsets(array), np.full(len(array), -1, np.int32)
    lengths, valid = np.diff(offsets), view(array.is_valid().cast(pa.uint8())).astype(bool)
    keys, items = (column.dictionary_encode() for column in (array.keys, array.items))
    maps_by_code: list[tuple[tuple[str, str], ...]] = []
    names, texts = keys.dictionary.to_pylist(), items.dictionary.to_pylist()
    pairs = view(keys.indices).astype(np.int64) << 32 | view(items.indices)
    for length in np.unique(
        lengths[valid]
    ).tolist():  # of maps that are equally long each is a row of numbers
        rows = np.flatnonzero(valid & (lengths == length))
        table = pairs[offsets[:-1][rows, None] + np.arange(length)]
        distinct, which = (
            np.unique(table, axis=0, return_inverse=True)
            if length
            else (table[:1], np.zeros(len(rows), np.int64))
        )
        codes[rows] = which.reshape(-1) + len(maps_by_code)
        maps_by_code += [
            tuple((names[p >> 32], texts[p & 0xFFFFFFFF]) for p in row) for row in distinct.tolist()
        ]
    return codes, maps_by_code


def _offsets(array: pa.MapArray) -> npt.NDArray[np.int32]:
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
