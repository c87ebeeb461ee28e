"""Columns and the arrays made of them, compared with the plain Python that they replace."""

import random

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core.plugin.arrays import constant, map_distinct, map_distinct_lists, view
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.quality import QualityMasks, fill_missing, flag_names


def texts_of(rows: list[bytes]) -> Columns:
    """Columns with one text column `t`."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    offsets[1:] = np.cumsum([len(row) for row in rows])
    data = np.frombuffer(b"".join(rows), np.uint8)
    zeros = np.zeros(len(rows), np.uint32)
    return Columns(len(rows), zeros, zeros.astype(np.uint64), {}, {"t": (offsets, data)})


def plain_split(row: bytes) -> list[bytes]:
    """What `split` must give."""
    if not row:
        return []
    return row[:-1].split(b"\0") if row.endswith(b"\0") else row.split(b"\0")


@pytest.mark.parametrize("seed", range(40))
def test_split_matches_plain_python(seed: int) -> None:
    """Rows of random parts, empty, ended and not: the same lists, row by row."""
    chance = random.Random(seed)
    rows = [
        bytes(chance.choice([0, 0, 65, 255]) for _ in range(chance.randrange(9)))
        for _ in range(chance.randrange(50))
    ]
    assert texts_of(rows).split("t").to_pylist() == [plain_split(row) for row in rows]


def test_text_column_is_binary_without_a_change() -> None:
    """Any byte and empty texts are preserved."""
    rows = [b"", b"\xff\0\n", b"plain", b""]
    assert texts_of(rows).array("t").to_pylist() == rows


def test_dictionary_holds_each_value_once() -> None:
    """Many codes with the same name share one value, because ClickHouse rejects duplicates."""
    codes = np.array([3, 4, -2, 5, -13, -2, 3], np.int32)
    result = map_distinct(
        codes,
        lambda distinct: [b"" if code >= 0 else b"%d" % code for code in distinct],
        pa.binary(),
    )
    assert result.to_pylist() == [b"", b"", b"-2", b"", b"-13", b"-2", b""]
    assert result.dictionary.to_pylist() == [b"", b"-2", b"-13"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", ["S16", "<u4", "<u8", "<i4"])
def test_distinct_values_are_looked_up_once_each(seed: int, dtype: str) -> None:
    """The function gets each distinct value once, and every row gets its value's result."""
    chance = random.Random(seed)
    values = [chance.randrange(4) for _ in range(chance.randrange(1, 60))]
    column = np.array([f"name-{v}" if dtype == "S16" else v for v in values], dtype)
    asked: list[object] = []

    def function(distinct: list[object]) -> list[bytes]:
        asked.extend(distinct)
        return [b"<%s>" % str(v).encode() for v in distinct]

    result = map_distinct(column, function, pa.binary())
    assert len(asked) == len(set(asked)) == len(set(values))
    result.validate(full=True)
    lookup = dict(zip(asked, [b"<%s>" % str(v).encode() for v in asked], strict=True))
    padded = [v.ljust(16, b"\0") if isinstance(v, bytes) else v for v in column.tolist()]
    assert result.to_pylist() == [
        lookup.get(v, lookup.get(w)) for v, w in zip(column.tolist(), padded, strict=True)
    ]


def test_result_shared_by_several_values_is_in_the_dictionary_once() -> None:
    """Values with equal results share one entry of the dictionary."""
    result = map_distinct(
        np.array([1, 2, 3, 1, 4], np.uint32),
        lambda v: [b"odd" if n % 2 else b"" for n in v],
        pa.binary(),
    )
    assert result.to_pylist() == [b"odd", b"", b"odd", b"odd", b""]
    assert result.dictionary.to_pylist() == [b"odd", b""]


def test_empty_columns_give_empty_arrays() -> None:
    """Columns without rows work everywhere."""
    assert (
        map_distinct(np.zeros(0, np.uint32), lambda v: [b""] * len(v), pa.binary()).to_pylist()
        == []
    )
    assert QualityMasks(np.zeros(0, np.uint64), flag_names(["t"])).names().to_pylist() == []
    assert texts_of([]).split("t").to_pylist() == []


@pytest.mark.parametrize("seed", range(20))
def test_quality_masks_become_lists_of_names(seed: int) -> None:
    """Each bit has its name, in the order of the texts; the flags of every row come last."""
    chance = random.Random(seed)
    masks = np.array(
        [chance.choice([0, 0, 1, 2, 5, 64, 127]) for _ in range(chance.randrange(1, 50))], np.uint64
    )
    names = [
        "entry_missing",
        "a_cut",
        "a_missing",
        "a_user_memory",
        "b_cut",
        "b_missing",
        "b_user_memory",
    ]
    wanted = [
        [n for bit, n in enumerate(names) if int(mask) >> bit & 1] + ["exe_missing"]
        for mask in masks
    ]
    result = QualityMasks(masks, flag_names(["a", "b"])).names(["exe_missing"])
    result.validate(full=True)
    assert result.to_pylist() == wanted


@pytest.mark.parametrize("seed", range(20))
def test_each_value_is_mapped_to_its_list_once(seed: int) -> None:
    """Every row gets its value's list, also an empty one."""
    chance = random.Random(seed)
    values = np.array([chance.randrange(8) for _ in range(chance.randrange(0, 60))], np.uint64)
    asked: list[int] = []

    def bits(distinct: list[int]) -> list[list[bytes]]:
        asked.extend(distinct)
        return [[b"bit%d" % bit for bit in range(3) if value >> bit & 1] for value in distinct]

    result = map_distinct_lists(values, bits, pa.binary())
    result.validate(full=True)
    assert len(asked) == len(set(asked))
    assert result.to_pylist() == [bits([value])[0] for value in values.tolist()]


def test_view_of_a_slice_and_constant_column() -> None:
    """A view has the slice's own values; a constant has one value in every row."""
    assert view(pa.array([1, 2, 3, 4], pa.uint32()).slice(1, 2)).tolist() == [2, 3]
    assert constant("x", 3, pa.string()).to_pylist() == ["x"] * 3


@pytest.mark.parametrize(
    ("array", "filled"),
    [
        (pa.array([1, None, 3], pa.uint32()), [1, 0, 3]),
        (pa.array([b"a", None, b""], pa.binary()), [b"a", b"", b""]),
        (pa.array(["a", None, "b"], pa.string()), ["a", "", "b"]),
        (pa.array([b"x", None, b"x"], pa.binary()).dictionary_encode(), [b"x", b"", b"x"]),
        (pa.array(["", None, "x"], pa.string()).dictionary_encode(), ["", "", "x"]),
        (pa.array([[b"a"], None, []], pa.list_(pa.binary())), [[b"a"], [], []]),
        (pa.array([b"z", b"a", None, b"b"], pa.binary())[1:], [b"a", b"", b"b"]),
    ],
)
def test_nulls_become_empty_values_and_are_returned_as_missing(
    array: pa.Array, filled: list[object]
) -> None:
    """A null becomes the type's empty value, and a dictionary still holds each value once."""
    values, missing = fill_missing(array)
    assert values.to_pylist() == filled
    assert values.null_count == 0
    assert missing.tolist() == [value is None for value in array.to_pylist()]
    if pa.types.is_dictionary(array.type):
        assert len(set(values.dictionary.to_pylist())) == len(values.dictionary)


@pytest.mark.parametrize("values", [[7, 7, 7], [7, 8, 7, 9], [8, 8, 7]])
def test_result_none_makes_its_rows_null(values: list[int]) -> None:
    """Rows whose value has no result are null, in any position."""
    names = {8: b"eight", 9: b"nine"}
    array = map_distinct(
        np.array(values, np.uint32), lambda distinct: [names.get(v) for v in distinct], pa.binary()
    )
    assert array.to_pylist() == [names.get(v) for v in values]
