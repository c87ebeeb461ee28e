"""From a slice of a block to a record batch that conforms to the probe's schema."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from infrasight_core.columns import Columns, constant, quality_names
from infrasight_core.errors import SchemaError
from infrasight_core.schema import TIMESTAMP

KEY_TIME_SHIFT = 20  # a process key counts time in units of 2^20 ns, above 22 bits of pid; see infrasight.bpf.h
KEY_PID_BITS = 22


@frozen
class Clock:
    """What turns the kernel's time since boot into wall-clock time.

    Attributes:
        boot_key: The time of boot as a process key's units since the epoch, shifted over the pid.
    """

    boot_key: np.uint64

    @classmethod
    def of_this_boot(cls) -> "Clock":
        """The boot's whole second as the kernel states it, the same for every agent of this boot."""
        stat = Path("/proc/stat").read_text()
        seconds = next(int(line.split()[1]) for line in stat.splitlines() if line.startswith("btime "))
        return cls(np.uint64((seconds * 10**9 >> KEY_TIME_SHIFT) << KEY_PID_BITS))

    @staticmethod
    def wall_offset() -> np.uint64:
        """Nanoseconds to add to the time since boot, as the clocks stand now."""
        return np.uint64(time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def assemble(columns: Columns, decoded: Mapping[str, pa.Array], schema: pa.Schema, clock: Clock) -> pa.RecordBatch:
    """Copies a slice out of its block.

    Args:
        columns: The slice.
        decoded: What the probe's decode made of it; goes before the block's own columns.
        schema: The probe's agent columns.
        clock: Of this boot.

    Returns:
        The columns of the schema that the block, its decode and its position give, in the schema's order; enrichers and
        `conform` fill the rest.
    """
    given: dict[str, pa.Array] = {}
    for name in schema.names:
        if name in decoded:
            given[name] = decoded[name]
        elif name == "cpu":
            given[name] = pa.array(np.full(columns.rows, columns.cpu, np.uint32))
        elif name == "sequence":
            given[name] = pa.array(np.arange(columns.first, columns.first + columns.rows, dtype=np.uint64))
        elif name == "time":
            given[name] = pa.array((columns.fixed[name] + clock.wall_offset()).view("<i8")).view(TIMESTAMP)
        elif name in ("process_key", "parent_process_key"):
            given[name] = pa.array(columns.fixed[name] + clock.boot_key)
        elif name == "quality":
            given[name] = quality_names(columns.fixed[name], list(columns.texts))
        elif name in columns.fixed or name in columns.texts:
            given[name] = columns.array(name)
    return pa.RecordBatch.from_arrays(list(given.values()), schema=pa.schema([_field(schema, n, a) for n, a in given.items()]))


def merge(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows."""
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    merged: pa.RecordBatch = table.to_batches()[0]
    return merged


def conform(batch: pa.RecordBatch, extra: Mapping[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the enrichers' columns, in the schema's order and types.

    A column that nobody filled is empty, and every row says so in `quality` (`<column>_missing`).

    Raises:
        SchemaError: A column has another type than the schema, or is not in it.
    """
    if unknown := sorted(extra.keys() - set(schema.names)):
        raise SchemaError(f"column {unknown[0]!r} of an enricher is not in the schema")
    given = {name: batch.column(name) for name in batch.schema.names} | dict(extra)
    missing = [name for name in schema.names if name not in given]
    for name in missing:
        given[name] = _empty(schema.field(name).type, batch.num_rows)
    if missing:
        given["quality"] = _with_names(given["quality"], [f"{name}_missing" for name in missing])
    for field in schema:
        if given[field.name].type != field.type:
            raise SchemaError(f"column {field.name!r} is {given[field.name].type}, and the schema wants {field.type}")
    return pa.RecordBatch.from_arrays([given[name] for name in schema.names], schema=schema)


def _field(schema: pa.Schema, name: str, array: pa.Array) -> pa.Field:
    return pa.field(name, array.type, nullable=schema.field(name).nullable)


def _empty(kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        empty: Any = b"" if pa.types.is_binary(kind.value_type) else ""
        return constant(empty, rows, kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        return pa.array([[]] * rows, kind)
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(np.zeros(rows + 1, np.int32)), pa.py_buffer(b"")])
    return pa.array(np.zeros(rows, np.int64)).cast(kind)


def _with_names(quality: pa.ListArray, names: list[str]) -> pa.ListArray:
    """Appends names to every row's list."""
    encoded = quality.values.dictionary_encode()
    known: list[str] = encoded.dictionary.to_pylist()
    codes: npt.NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
    offsets = quality.offsets.to_numpy()
    rows = len(quality)
    codes = codes[offsets[0] : offsets[-1]]
    added = np.tile(np.arange(len(known), len(known) + len(names)), rows)
    codes = np.insert(codes, np.repeat(offsets[1:] - offsets[0], len(names)), added)
    values = pa.array([*known, *names], pa.string()).take(pa.array(codes))
    starts = pa.array((offsets - offsets[0] + np.arange(rows + 1) * len(names)).astype(np.int32))
    return pa.ListArray.from_arrays(starts, values, type=quality.type)
