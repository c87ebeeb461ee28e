"""Drained columns become a batch that conforms to the schema, or an error that says why not."""

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
    """Two drained events."""
    fixed = {
        "time": np.array([10, 20], "<u8"),
        "process_key": np.array([(1 << 22) | 7, (2 << 22) | 8], "<u8"),
        "quality": np.array([0, 1], "<u8"),
        "flags": np.array([3, 4], flags),
    }
    return Columns(2, np.array([0, 1], np.uint32), np.array([5, 9], np.uint64), fixed)


def assembled(drained: Columns) -> pa.RecordBatch:
    """The batch of drained columns of a probe without `decode`."""
    return assemble(drained, {}, SCHEMA, BOOT_KEY)


def test_column_without_a_source_is_empty_and_flagged() -> None:
    """Every row's `quality` names it, behind the row's own flags."""
    batch = conform(assembled(columns()), {}, SCHEMA, [])
    assert batch.schema == SCHEMA
    batch.validate(full=True)
    assert batch["user"].to_pylist() == batch["exe"].to_pylist() == [b"", b""]
    assert batch["quality"].to_pylist() == [
        ["user_missing", "exe_missing"],
        ["entry_missing", "user_missing", "exe_missing"],
    ]


def test_assembled_batch_has_position_wall_clock_time_and_process_key() -> None:
    """The process key counts from the epoch and holds its pid; the times differ as in the block."""
    batch = assembled(columns())
    assert batch["cpu"].to_pylist() == [0, 1]
    assert batch["sequence"].to_pylist() == [5, 9]
    assert batch["process_key"].to_pylist() == [(1001 << 22) | 7, (1002 << 22) | 8]
    first, second = batch["time"].cast(pa.int64()).to_pylist()
    assert second - first == 10
    assert abs(first - wall_clock_offset_ns()) < 10**9


def test_interruption_between_the_clocks_moves_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that loses the CPU for 50 ms between two clocks places events where they belong."""
    undisturbed = wall_clock_offset_ns()
    wall_clock = time.time_ns
    pauses = [0.05, 0.05]

    def interrupted() -> int:
        now = wall_clock()
        if pauses:
            time.sleep(pauses.pop())
        return now

    monkeypatch.setattr(time, "time_ns", interrupted)
    assert abs(wall_clock_offset_ns() - undisturbed) < 10**6
    assert not pauses


def test_decoded_column_replaces_the_blocks_and_an_enrichers_both() -> None:
    """`decode` takes precedence over the block, and `enrich` over both."""
    decoded = {"flags": numbers(np.array([7, 7], np.uint32))}
    batch = assemble(columns(), decoded, SCHEMA, BOOT_KEY)
    assert batch["flags"].to_pylist() == [7, 7]
    enriched = {
        "exe": strings([b"a", b"b"], pa.binary()),
        "flags": numbers(np.array([8, 9], np.uint32)),
    }
    assert conform(batch, enriched, SCHEMA, [])["flags"].to_pylist() == [8, 9]


def test_column_of_another_type_is_rejected_with_both_types() -> None:
    """The error names the column, its type and the schema's."""
    with pytest.raises(SchemaError, match="'flags' has the type uint64, but the schema has uint32"):
        conform(assembled(columns("<u8")), {}, SCHEMA, [])


def test_column_outside_the_schema_is_rejected_by_name() -> None:
    """An enricher's unknown column is an error, not dropped silently."""
    enriched = {"colour": numbers(np.zeros(2, np.uint8))}
    with pytest.raises(SchemaError, match="'colour' of an enricher is not in the schema"):
        conform(assembled(columns()), enriched, SCHEMA, [])


def test_null_of_an_enricher_is_flagged_in_its_row_only() -> None:
    """The value is empty, and `quality` flags that row and no other."""
    user = strings([b"root"], pa.binary())
    enriched = {
        "user": pa.DictionaryArray.from_arrays(pa.array([None, 0], pa.int32()), user),
        "exe": pa.array([b"/a", b"/b"]),
    }
    batch = conform(assembled(columns()), enriched, SCHEMA, [])
    assert batch["user"].to_pylist() == [b"", b"root"]
    assert batch["quality"].to_pylist() == [["user_missing"], ["entry_missing"]]


def test_enricher_clears_the_flag_of_a_value_that_the_kernel_lacked() -> None:
    """A text that the kernel flagged as missing is not missing where an enricher has it."""
    drained = columns()
    drained.fixed["quality"][:] = 0b100, 0b101  # both exe_missing
    enriched = {
        "exe": pa.array([b"/bin/sh", None], pa.binary()),
        "user": constant(b"", 2, pa.binary()),
    }
    batch = conform(assembled(drained), enriched, SCHEMA, ["exe"])
    assert batch["exe"].to_pylist() == [b"/bin/sh", b""]
    assert batch["quality"].to_pylist() == [[], ["entry_missing", "exe_missing"]]


def test_quality_without_a_free_bit_is_an_error() -> None:
    """A probe whose texts and flags leave no bit for an enricher's null cannot be recorded."""
    texts = [f"text_{number}" for number in range(21)]
    enriched = {"user": pa.array([None, None], pa.binary()).dictionary_encode()}
    with pytest.raises(SchemaError, match="no bit of quality is left for 'user_missing'"):
        conform(assembled(columns()), enriched, SCHEMA, texts)
