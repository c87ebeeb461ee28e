"""Merges the column `tags` of several enrichers into one map per event, during enrichment.

An enricher returns one array of maps, ideally a dictionary array of the distinct ones
(`map_distinct(…, TAGS)`). Merging handles each distinct combination of maps once, not each event.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infrasight_core.plugin.arrays import map_array, null_rows, numbers, view

TAGS = pa.map_(pa.string(), pa.string())
_NULL = -1  # the code of a null map
_Pairs = tuple[tuple[str, str], ...]


def merge_tags(arrays: Sequence[pa.Array]) -> pa.Array:
    """Merges the maps of several enrichers into one array of `TAGS`.

    If two enrichers set the same key, the first one's value wins. A row is null if any enricher's
    map is null, so that `quality` can flag it; it still holds the entries of the other enrichers
    (`entries_of_all_rows`).

    Raises:
        pa.ArrowException: An array does not hold maps from strings to strings.
    """
    encoded = [_encode(array) for array in arrays]
    codes = np.stack([codes for codes, _ in encoded], axis=1)
    combinations, combination_of_row = np.unique(codes, axis=0, return_inverse=True)
    merged = []
    for combination in combinations.tolist():
        pairs: dict[str, str] = {}
        for code, (_, distinct_maps) in zip(combination, encoded, strict=True):
            if code == _NULL:
                continue
            for key, value in distinct_maps[code]:
                pairs.setdefault(key, value)
        merged.append(tuple(pairs.items()))
    indices = numbers(combination_of_row.reshape(-1).astype(np.int32))
    rows = map_array(merged, TAGS).take(indices)
    nulls = (codes == _NULL).any(axis=1)
    if not nulls.any():
        return rows
    validity = pa.py_buffer(np.packbits(~nulls, bitorder="little"))
    entries = pa.StructArray.from_arrays(
        [rows.keys, rows.items], fields=[TAGS.key_field, TAGS.item_field]
    )
    offsets = rows.buffers()[1]
    return pa.Array.from_buffers(TAGS, len(rows), [validity, offsets], children=[entries])


def entries_of_all_rows(array: pa.MapArray) -> pa.MapArray:
    """Returns the maps with every row valid: a null row becomes the map of its entries."""
    offsets = numbers(_offsets(array))
    return pa.MapArray.from_arrays(offsets, array.keys, array.items, type=array.type)


def _encode(array: pa.Array) -> tuple[npt.NDArray[np.int32], list[_Pairs]]:
    """Returns the code of each row's map (`_NULL` for null), and the maps by code."""
    if pa.types.is_dictionary(array.type):
        codes = view(pc.fill_null(array.indices.cast(pa.int32()), _NULL))
        return codes, [tuple(pairs or ()) for pairs in array.dictionary.cast(TAGS).to_pylist()]
    array = array.cast(TAGS)
    offsets = _offsets(array)
    lengths = np.diff(offsets)
    valid = ~null_rows(array)
    keys = array.keys.dictionary_encode()
    items = array.items.dictionary_encode()
    key_names = keys.dictionary.to_pylist()
    item_texts = items.dictionary.to_pylist()
    pairs = view(keys.indices).astype(np.int64) << 32 | view(items.indices)
    codes = np.full(len(array), _NULL, np.int32)
    distinct_maps: list[_Pairs] = []
    for length in np.unique(lengths[valid]).tolist():
        rows = np.flatnonzero(valid & (lengths == length))
        # Maps of one length are the rows of a table of numbers, which `unique` can compare.
        table = pairs[offsets[:-1][rows, None] + np.arange(length)]
        if length:
            distinct_rows, row_codes = np.unique(table, axis=0, return_inverse=True)
        else:
            distinct_rows = table[:1]
            row_codes = np.zeros(len(rows), np.int64)
        codes[rows] = row_codes.reshape(-1) + len(distinct_maps)
        for row in distinct_rows.tolist():
            distinct_maps.append(
                tuple((key_names[pair >> 32], item_texts[pair & 0xFFFFFFFF]) for pair in row)
            )
    return codes, distinct_maps


def _offsets(array: pa.MapArray) -> npt.NDArray[np.int32]:
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
