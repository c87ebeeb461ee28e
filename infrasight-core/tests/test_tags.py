"""Tags of several enrichers, merged into one column."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import TAGS, constant, map_distinct
from infrasight_core.plugin.tags import entries_of_all_rows, merge_tags

ROWS = [[("a", "1")], None, [], [("a", "2"), ("ä", "größer")]]


@pytest.mark.parametrize("sliced", [False, True])
def test_merged_tags_hold_the_entries_of_all_enrichers(sliced: bool) -> None:
    """Plain and dictionary arrays, whole and sliced; the first value of a key wins."""
    numbers = np.array([0, 1, 2, 3, 0], np.uint32)
    first: Any = map_distinct(
        numbers, lambda few: [None if ROWS[n] is None else tuple(ROWS[n] or ()) for n in few], TAGS
    )
    second: Any = pa.array(
        [[("b", "x")], [("b", "y")], [], [("a", "9"), ("c", "")], [("b", "x")]], TAGS
    )
    if sliced:
        first = first.slice(1)
        second = second.slice(1)
    wanted = [
        {"a": "1", "b": "x"},
        {"b": "y"},
        {},
        {"a": "2", "ä": "größer", "c": ""},
        {"a": "1", "b": "x"},
    ][sliced:]
    both = merge_tags([first, second])
    both.validate(full=True)
    assert both.is_valid().to_pylist() == [True, False, True, True, True][sliced:]
    assert [dict(row) for row in entries_of_all_rows(both).to_pylist()] == wanted


def test_merge_of_many_rows_with_few_maps() -> None:
    """A hundred thousand rows are merged by their distinct combinations."""
    numbers = np.arange(100_000, dtype=np.uint32) % 7
    first = map_distinct(numbers, lambda few: [(("n", str(n)),) for n in few], TAGS)
    both = merge_tags([first, constant((("node", "here"),), len(numbers), TAGS)])
    assert both[100].as_py() == [("n", "2"), ("node", "here")]
    assert len(both) == 100_000


def test_array_without_maps_is_rejected() -> None:
    """Another type is an Arrow error, which the plugin manager attributes to the enricher."""
    with pytest.raises(pa.ArrowException):
        merge_tags([pa.array([1, 2])])
