"""From columns to a batch that conforms, and what is said when it cannot."""

import time

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import Columns, SchemaError, constant, numbers, strings
from infrasight_core.agent.batches import assemble, boot_key_of, conform
from infrasight_core.plugin.clock import wall_clock_offset_ns

SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("ns", "UTC"), nullable=False),
        pa.field("process_key", pa.uint64(), nullable=False),
        pa.field("user", pa.dictionary(pa.int32(), pa.binary()), nullable=False),
        pa.field("exe", pa.binary(), nullable=False),
        pa.field(
            "quality",
            pa.list_(pa.field("item", pa.dictionary(pa.int32(), pa.string()), nullable=False)),
            nullable=False,
        ),
        pa.field("cpu", pa.uint32(), nullable=False),
        pa.field("sequence", pa.uint64(), nullable=False),
        pa.field("flags", pa.uint32(), nullable=False),
    ]
)
BOOT_KEY = boot_key_of(1000 << 20)


def columns(flags: str = "<u4") -> Columns:
    """Two events."""
    fixed = {
        "time": np.array([10, 20], "<u8"),
        "process_key": np.array([(1 << 22) | 7, (2 << 22) | 8], "<u8"),
        "quality": np.array([0, 1], "<u8"),
        "flags": np.array([3, 4], flags),
    }
    return Columns(2, np.array([0, 1], np.uint32), np.array([5, 9], np.uint64), fixed)


def test_what_nobody_filled_is_empty_and_says_so() -> None:
    """Columns without a source are empty, and every row's quality names them beside its own flags."""
    batch = conform(assemble(columns(), {}, SCHEMA, BOOT_KEY), {}, SCHEMA, [])
    assert batch.schema == SCHEMA
    batch.validate(full=True)
    assert batch["user"].to_pylist() == batch["exe"].to_pylist() == [b"", b""]
    assert batch["quality"].to_pylist() == [
        ["user_missing", "exe_missing"],
        ["entry_missing", "user_missing", "exe_missing"],
    ]


def test_position_time_and_key_are_the_events_own() -> None:
    """cpu and sequence come from the blocks, the time is wall clock, the key counts from the epoch and keeps its pid."""
    batch = assemble(columns(), {}, SCHEMA, BOOT_KEY)
    assert (batch["cpu"].to_pylist(), batch["sequence"].to_pylist()) == ([0, 1], [5, 9])
    assert batch["process_key"].to_pylist() == [(1001 << 22) | 7, (1002 << 22) | 8]
    first, second = batch["time"].cast(pa.int64()).to_pylist()
    assert second - first == 10
    assert abs(first - wall_clock_offset_ns()) < 10**9


def test_an_interruption_between_the_clocks_moves_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that loses the CPU for 50 ms between reading one clock and the other places events as one that did not."""
    undisturbed, wall_clock, pauses = wall_clock_offset_ns(), time.time_ns, [0.05, 0.05]

    def interrupted() -> int:
        now = wall_clock()
        if pauses:
            time.sleep(pauses.pop())
        return now

    monkeypatch.setattr(time, "time_ns", interrupted)
    assert abs(wall_clock_offset_ns() - undisturbed) < 10**6
    assert not pauses


def test_decode_and_enrichers_go_before_the_block() -> None:
    """A decoded column replaces the block's, an enricher's replaces both."""
    decoded = {"flags": numbers(np.array([7, 7], np.uint32))}
    batch = assemble(columns(), decoded, SCHEMA, BOOT_KEY)
    assert batch["flags"].to_pylist() == [7, 7]
    extra = {
        "exe": strings([b"a", b"b"], pa.binary()),
        "flags": numbers(np.array([8, 9], np.uint32)),
    }
    assert conform(batch, extra, SCHEMA, [])["flags"].to_pylist() == [8, 9]


def test_a_wrong_type_is_named_with_both() -> None:
    """A column of another width than the schema's is refused, with the column and both types."""
    with pytest.raises(SchemaError, match="'flags' has the type uint64, but the schema has uint32"):
        conform(assemble(columns("<u8"), {}, SCHEMA, BOOT_KEY), {}, SCHEMA, [])


def test_a_column_that_the_schema_lacks_is_named() -> None:
    """An enricher's column outside the schema is refused by name, not dropped in silence."""
    with pytest.raises(SchemaError, match="'colour' of an enricher is not in the schema"):
        conform(
            assemble(columns(), {}, SCHEMA, BOOT_KEY),
            {"colour": numbers(np.zeros(2, np.uint8))},
            SCHEMA,
            [],
        )


def test_what_an_enricher_could_not_know_is_flagged_in_its_rows_alone() -> None:
    """A null of an enricher is empty in the row, which says so; the other rows do not."""
    user = strings([b"root"], pa.binary())
    extra = {
        "user": pa.DictionaryArray.from_arrays(pa.array([None, 0], pa.int32()), user),
        "exe": pa.array([b"/a", b"/b"]),
    }
    batch = conform(assemble(columns(), {}, SCHEMA, BOOT_KEY), extra, SCHEMA, [])
    assert batch["user"].to_pylist() == [b"", b"root"]
    assert batch["quality"].to_pylist() == [["user_missing"], ["entry_missing"]]


def test_what_the_kernel_lacked_an_enricher_may_know() -> None:
    """A text that the kernel flagged as missing and an enricher gives is not missing any more, where it does give it."""
    given = columns()
    given.fixed["quality"][:] = 0b100, 0b101  # both exe_missing
    extra = {
        "exe": pa.array([b"/bin/sh", None], pa.binary()),
        "user": constant(b"", 2, pa.binary()),
    }
    batch = conform(assemble(given, {}, SCHEMA, BOOT_KEY), extra, SCHEMA, ["exe"])
    assert batch["exe"].to_pylist() == [b"/bin/sh", b""]
    assert batch["quality"].to_pylist() == [[], ["entry_missing", "exe_missing"]]


def test_more_names_than_quality_has_bits() -> None:
    """A probe whose texts and flags leave no bit for an enricher's null is an error that says so."""
    texts = [f"text_{number}" for number in range(21)]
    extra = {"user": pa.array([None, None], pa.binary()).dictionary_encode()}
    with pytest.raises(SchemaError, match="no bit of quality is left for 'user_missing'"):
        conform(assemble(columns(), {}, SCHEMA, BOOT_KEY), extra, SCHEMA, texts)
