"""Defines the flags of the column `quality`; `conform` sets them, and the server adds to them.

A flag says that a field of the event is missing, truncated or read from user memory. In a block,
and while the agent assembles a batch, the flags of an event are the bits of a mask. In a finished
batch, on the wire and in the store they are a list of names such as `cwd_missing`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infrasight_core.errors import SchemaError
from infrasight_core.plugin.arrays import (
    dictionary_array,
    empty_value,
    empty_values,
    map_distinct_lists,
    null_rows,
    numbers,
    strings,
    view,
)
from infrasight_core.plugin.tags import entries_of_all_rows

_MASK_BITS = 64
_MISSING = "_missing"


def missing_flag(column: str) -> str:
    """Returns the name of the flag that says that a column's value is missing."""
    return f"{column}{_MISSING}"


def flag_names(texts: Sequence[str], own_flags: Sequence[str] = ()) -> list[str]:
    """Returns the names of the bits of a block's masks, bit 0 first; see `infrasight.bpf.h`.

    Args:
        texts: The block's TEXT columns in order.
        own_flags: The probe's own flags in order, which follow those of its texts.
    """
    names = ["entry_missing"]
    for text in texts:
        names += [f"{text}_cut", missing_flag(text), f"{text}_user_memory"]
    return [*names, *own_flags]


def flag_mask(names: Iterable[str], bits: Sequence[str]) -> np.uint64:
    """Returns the mask of some flags.

    Args:
        names: The names of the flags.
        bits: The names of all bits, as `flag_names` returns them.
    """
    return np.uint64(sum(1 << bits.index(name) for name in names))


class QualityMasks:
    """The flags of a batch's rows while the agent assembles the batch.

    Args:
        masks: One mask a row.
        bits: The name of each bit, as `flag_names` returns them.
    """

    def __init__(self, masks: npt.NDArray[np.uint64], bits: Sequence[str]) -> None:
        self._masks = masks
        self._bits = list(bits)

    def __contains__(self, name: str) -> bool:
        return name in self._bits

    def set(self, name: str, rows: npt.NDArray[np.bool_]) -> None:
        """Sets a flag in these rows and clears it in all others.

        Raises:
            SchemaError: The mask has no bit left for the flag.
        """
        if name not in self._bits:
            if len(self._bits) == _MASK_BITS:
                raise SchemaError(
                    f"no bit of quality is left for {name!r}: "
                    "the probe has too many TEXT columns and flags"
                )
            self._bits.append(name)
        bit = np.uint64(1 << self._bits.index(name))
        self._masks = np.where(rows, self._masks | bit, self._masks & ~bit)

    def names(self, of_every_row: Sequence[str] = ()) -> pa.ListArray:
        """Returns the names of each row's flags as the column `quality`.

        Args:
            of_every_row: Further flags that every row has.
        """

        def names_of(distinct_masks: list[int]) -> list[list[str]]:
            lists = []
            for mask in distinct_masks:
                names = [name for bit, name in enumerate(self._bits) if mask >> bit & 1]
                lists.append([*names, *of_every_row])
            return lists

        return map_distinct_lists(self._masks, names_of, pa.string())


def fill_missing(array: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Replaces each null of an enricher's column with the type's empty value.

    A null map keeps its entries; see `merge_tags`.

    Returns:
        The array without nulls, and which rows were null.
    """
    missing = null_rows(array)
    arrow_type = array.type
    if pa.types.is_map(arrow_type):
        return entries_of_all_rows(array), missing
    if not missing.any():
        return array, missing
    if pa.types.is_dictionary(arrow_type):
        return _fill_dictionary(array, missing), missing
    return pc.coalesce(array, empty_values(len(array), arrow_type)), missing


def _fill_dictionary(
    array: pa.DictionaryArray, missing: npt.NDArray[np.bool_]
) -> pa.DictionaryArray:
    values = array.dictionary.to_pylist()
    empty = empty_value(array.type)
    if empty not in values:
        values.append(empty)
    indices = np.where(missing, values.index(empty), view(array.indices)).astype(np.int32)
    return dictionary_array(indices, values, array.type.value_type)


def add_flag(quality: pa.ListArray, name: str, rows: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Adds a flag to the lists of a finished column in these rows; a row that has it keeps one."""
    offsets = view(quality.offsets)
    names = quality.values.dictionary.to_pylist()
    codes = view(quality.values.indices)
    code = names.index(name) if name in names else len(names)
    items_with_flag = np.flatnonzero(codes[offsets[0] : offsets[-1]] == code) + offsets[0]
    rows = rows.copy()
    rows[np.searchsorted(offsets, items_with_flag, side="right") - 1] = False
    dictionary = quality.values.dictionary
    if code == len(names):
        dictionary = strings([*names, name], pa.string())
    all_codes = np.insert(codes, offsets[1:][rows], code)
    items = pa.DictionaryArray.from_arrays(numbers(all_codes), dictionary)
    added_before = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(numbers(offsets + added_before), items, type=quality.type)


def count_missing(quality: pa.ListArray) -> tuple[dict[str, int], int]:
    """Counts missing fields in a finished column.

    Returns:
        The number of rows that lack a column, by column, and the number of rows that lack any.
    """
    items = quality.flatten()
    if not len(items):
        return {}, 0
    names = items.dictionary.to_pylist()
    codes = view(items.indices)
    counts = np.bincount(codes, minlength=len(names))
    is_missing = np.array([name.endswith(_MISSING) for name in names])
    by_column = {
        names[code].removesuffix(_MISSING): int(counts[code])
        for code in np.flatnonzero(is_missing & (counts > 0))
    }
    missing_before_item = np.concatenate(([0], np.cumsum(is_missing[codes])))
    offsets = view(quality.offsets) - view(quality.offsets)[0]
    missing_in_row = np.diff(missing_before_item[offsets])
    return by_column, int(np.count_nonzero(missing_in_row))
