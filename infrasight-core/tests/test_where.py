"""The filter of `--where`."""

from typing import Any

import pyarrow as pa
import pytest
from infrasight_core.cli.where import Where
from infrasight_core.errors import ConfigError

COMMS = [b"bash", b"sh", b"b\xff", b"cat", b"bash"]


def rows(dictionary: bool) -> pa.Table:
    """Five events, in two chunks with different dictionaries."""
    kind = pa.dictionary(pa.int32(), pa.binary()) if dictionary else pa.binary()
    schema = pa.schema({"uid": pa.uint32(), "pid": pa.uint32(), "comm": kind})
    parts = [
        pa.RecordBatch.from_arrays(
            [
                pa.array(range(a, b), pa.uint32()),
                pa.array(range(100 + a, 100 + b), pa.uint32()),
                pa.array(COMMS[a:b], kind),
            ],
            schema=schema,
        )
        for a, b in ((0, 3), (3, 5))
    ]
    return pa.Table.from_batches(parts)


def uids(found: Any) -> list[int]:
    """Which of the five are left."""
    return list(found.column("uid").to_pylist())


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize(
    ("expressions", "left"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["uid=3"], [3]),
        (["pid=101"], [1]),
        (["comm=bash"], [0, 4]),
        (["comm=b*"], [0, 2, 4]),
        (["comm=[bc]a*", "uid=3"], [3]),
        (["comm=??"], [1, 2]),
        (["comm=b\udcff"], [2]),
        (["uid=1", "uid=2"], []),
    ],
)
def test_where_selects_rows_that_match_all_conditions(
    expressions: list[str], left: list[int], dictionary: bool
) -> None:
    """Tables and batches keep exactly the matching rows, with and without dictionaries."""
    table = rows(dictionary)
    where = Where.parse(expressions)
    assert uids(where.apply(table)) == left
    assert uids(where.apply(table.to_batches()[0])) == [uid for uid in left if uid < 3]


@pytest.mark.parametrize(
    "text",
    [
        "uid",
        "uid=",
        "uid=root",
        "uid=-1",
        "uid=4294967296",
        "pid=0x1",
        "user=root",
        "comm=",
        "",
        "=1",
    ],
)
def test_where_rejects_a_bad_condition_with_the_syntax(text: str) -> None:
    """The error names the condition and what is allowed."""
    with pytest.raises(ConfigError, match="write uid=NUMBER, pid=NUMBER, or comm=NAME") as caught:
        Where.parse([text])
    assert repr(text) in str(caught.value)


def test_where_rejects_a_name_longer_than_the_kernel_stores() -> None:
    """Such a name would never match; the error has its first 15 bytes."""
    with pytest.raises(ConfigError, match=r"write comm=a-rather-long-n$"):
        Where.parse(["comm=a-rather-long-name"])
    assert Where.parse(["comm=a-rather-long-*"]).conditions
