"""Rows as JSON lines, and text that is safe on a terminal."""

import json
import subprocess
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest
from infrasight_core.cli.format import json_lines, quoted, shown, unique_names
from infrasight_core.console.streams import printable
from infrasight_core.plugin.schema import IP_ADDRESS, IP_ADDRESS_MARK


def one(array: pa.Array) -> object:
    """The first value, through a JSON line and back."""
    return json.loads(next(json_lines(pa.table({"x": array}))))["x"]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (b"caf\xc3\xa9", pa.binary(), "café"),
        (b"a\xffb\\", pa.binary(), "a\\xffb\\"),
        (b"x", pa.dictionary(pa.int32(), pa.binary()), "x"),
        ([b"a", b"\xfe"], pa.list_(pa.binary()), ["a", "\\xfe"]),
        (1_700_000_000_123_456_789, pa.timestamp("ns", "UTC"), "2023-11-14T22:13:20.123456789Z"),
        (0, pa.timestamp("ns", "Europe/Berlin"), "1970-01-01T00:00:00.000000000Z"),
        (-1, pa.timestamp("s"), "1969-12-31T23:59:59"),
        (date(2020, 2, 2), pa.date32(), "2020-02-02"),
        (Decimal("1.20"), pa.decimal128(9, 2), "1.20"),
        (float("nan"), pa.float64(), None),
        (1.5, pa.float64(), 1.5),
        ((1 << 64) - 1, pa.uint64(), (1 << 64) - 1),
        (True, pa.bool_(), True),
        (None, pa.binary(), None),
        ([("k", [1, None])], pa.map_(pa.string(), pa.list_(pa.int32())), {"k": [1, None]}),
        (
            {"a": b"\xff", "b": None},
            pa.struct({"a": pa.binary(), "b": pa.int8()}),
            {"a": "\\xff", "b": None},
        ),
    ],
)
def test_json_lines_represent_every_type(
    value: object, kind: pa.DataType, expected: object
) -> None:
    """Each Arrow type has one JSON form."""
    assert one(pa.array([value], kind)) == expected


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (bytes(10) + b"\xff\xff\x0a\0\0\1", "10.0.0.1"),
        (bytes(15) + b"\1", "::1"),
        (bytes(16), "::"),
        (b"\x20\1\x0d\xb8" + bytes(11) + b"\x42", "2001:db8::42"),
        (None, None),
    ],
)
def test_json_lines_show_addresses_of_marked_columns(
    packed: bytes | None, expected: str | None
) -> None:
    """A marked column of 16 bytes, or of lists of them, holds IP addresses; others hold bytes."""
    single = pa.array([packed], IP_ADDRESS)
    lists = pa.array([[packed]], pa.list_(IP_ADDRESS))
    fields = [
        pa.field(name, array.type, metadata=IP_ADDRESS_MARK)
        for name, array in (("one", single), ("all", lists))
    ]
    table = pa.table([single, lists], schema=pa.schema(fields))
    assert json.loads(next(json_lines(table))) == {"one": expected, "all": [expected]}
    assert one(single) == (None if packed is None else shown(packed))


def test_json_lines_escape_strings_that_are_not_utf8() -> None:
    """The store's strings may hold any bytes; they are shown like binary ones."""
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"a\xff"], pa.binary()).buffers())
    assert one(broken) == "a\\xff"


def test_json_lines_represent_slices_and_nulls_of_nested_columns() -> None:
    """A slice of a list or map column shows its own rows, not those before it."""
    lists = pa.array([[1], None, [2, 3], []])
    maps = pa.array([[("a", 1)], None, [("b", 2), ("c", 3)], []], pa.map_(pa.string(), pa.int32()))
    table = pa.table({"l": lists, "m": maps})
    rows = [
        {"l": [1], "m": {"a": 1}},
        {"l": None, "m": None},
        {"l": [2, 3], "m": {"b": 2, "c": 3}},
        {"l": [], "m": {}},
    ]
    assert [json.loads(line) for line in json_lines(table)] == rows
    assert [json.loads(line) for line in json_lines(table.slice(2))] == rows[2:]


def test_json_lines_keep_the_order_and_repeated_names() -> None:
    """Keys are in the order of the columns, and a repeated name keeps each of its values."""
    table = pa.Table.from_arrays([pa.array([n]) for n in (1, 2, 3, 4)], ["b", "a", "b", "b_2"])
    assert list(json_lines(table)) == ['{"b":1,"a":2,"b_2":3,"b_2_2":4}']
    assert unique_names(["x", "x", "x"]) == ["x", "x_2", "x_3"]


def test_json_lines_escape_what_a_terminal_obeys() -> None:
    """Control characters and marks of direction are escaped, and decode to what they were."""
    nasty = "\x1b[2J\x07\r\n\x7f\x9b1m\u202e\u2066\u200b\ufeffé"
    (line,) = json_lines(pa.table({nasty: pa.array([nasty.encode()])}))
    assert printable(line) == line
    assert "é" in line
    assert json.loads(line) == {nasty: nasty}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", "a b"),
        ("é", "é"),
        ("a\x1b[1m", "a\\x1b[1m"),
        ("\n\t", "\\n\\t"),
        ("\u202e", "\\u202e"),
    ],
)
def test_printable_escapes_what_a_terminal_obeys(text: str, expected: str) -> None:
    """What a terminal would obey is escaped, the rest is left."""
    assert printable(text) == expected


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b"ls",
        b"a b",
        b"it's",
        b"$HOME",
        b"\xff\xfe'\\",
        b"new\nline",
        "é\u202e".encode(),
        b"\x1b[0m",
    ],
)
def test_quoted_argument_is_what_bash_reads(argument: bytes) -> None:
    """Typed into bash it gives the same bytes again, and it prints safely."""
    word = quoted(argument)
    assert printable(word) == word
    command = ["bash", "-c", f"printf %s {word}"]
    assert (
        subprocess.run(command, env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True).stdout
        == argument
    )


def test_shown_escapes_bytes_that_are_not_utf8() -> None:
    """Other bytes are decoded."""
    assert shown(b"\xc3\xa9\xc3") == "é\\xc3"
