"""From columns to a record batch that conforms to the probe's schema."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import frozen

from infrasight_core.errors import SchemaError
from infrasight_core.plugin.arrays import (
    constant,
    numbers,
    quality_bits,
    quality_names,
    strings,
    view,
    without_nulls,
)
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.schema import TIMESTAMP, is_optional
from infrasight_core.plugin.tags import entries_kept

KEY_TIME_SHIFT = (
    20  # a process key counts time in units of 2^20 ns, above 22 bits of pid; see infrasight.bpf.h
)
KEY_PID_BITS = 22
PROCESS_KEYS = ("process_key", "parent_process_key", "grandparent_process_key")
QUALITY_BITS = 64
BOOT = time.CLOCK_BOOTTIME
SURE, TRIES = (
    1000,
    20,
)  # nanoseconds that reading the clocks may take, and how often it is tried to be as fast
VIA = ("syscall", "compat", "io_uring")  # enum via in call.bpf.h


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
        seconds = next(
            int(line.split()[1]) for line in stat.splitlines() if line.startswith("btime ")
        )
        return cls(np.uint64((seconds * 10**9 >> KEY_TIME_SHIFT) << KEY_PID_BITS))

    @staticmethod
    def wall_offset() -> np.uint64:
        """Nanoseconds to add to the time since boot, as the clocks stand now.

        Who is interrupted between two clocks is milliseconds off, and a batch's events then stand among others': so one clock
        is read before and after the other, and of some tries the shortest counts.
        """
        tries: list[tuple[int, int]] = []
        while not tries or (len(tries) < TRIES and tries[-1][0] > SURE):
            before, wall, after = (
                time.clock_gettime_ns(BOOT),
                time.time_ns(),
                time.clock_gettime_ns(BOOT),
            )
            tries.append((after - before, wall - (before + after) // 2))
        return np.uint64(min(tries)[1])


def assemble(
    columns: Columns, decoded: Mapping[str, pa.Array], schema: pa.Schema, clock: Clock
) -> pa.RecordBatch:
    """Makes a batch of what the block, the probe's decode and the clock give.

    Args:
        columns: The events.
        decoded: What the probe's decode made of it; goes before the block's own columns.
        schema: The probe's agent columns.
        clock: Of this boot.

    Returns:
        The columns of the schema that are known by now, in the schema's order, `quality` still as the block's mask;
        enrichers and `conform` do the rest.
    """
    given: dict[str, pa.Array] = {}
    for name in schema.names:
        if name in decoded:
            given[name] = decoded[name]
        elif name == "cpu":
            given[name] = numbers(columns.cpu)
        elif name == "sequence":
            given[name] = numbers(columns.sequence)
        elif name == "time":
            given[name] = numbers(columns.fixed[name] + clock.wall_offset(), TIMESTAMP)
        elif name in PROCESS_KEYS:
            given[name] = numbers(columns.fixed[name] + clock.boot_key)
        elif name == "via" and name in columns.fixed:
            codes = numbers(columns.fixed[name].astype(np.int32))
            given[name] = pa.DictionaryArray.from_arrays(codes, strings(VIA, pa.string()))
        elif name in columns.fixed or name in columns.texts:
            whole = pa.types.is_fixed_size_binary(schema.field(name).type)
            given[name] = columns.whole(name) if whole else columns.array(name)
    return pa.RecordBatch.from_arrays(list(given.values()), names=list(given))


def conform(
    batch: pa.RecordBatch,
    extra: Mapping[str, pa.Array],
    schema: pa.Schema,
    texts: Sequence[str],
    flags: Sequence[str] = (),
) -> pa.RecordBatch:
    """The batch with the enrichers' columns, in the schema's order and types.

    A column that nobody filled is empty, and unless it is optional every row says so in `quality` (`<column>_missing`); so does
    a row for which an enricher's column is null.

    Args:
        batch: As `assemble` left it.
        extra: The enrichers' columns.
        schema: The probe's agent columns.
        texts: The block's TEXT columns in order, for the names in `quality`.
        flags: The probe's own flags in order, for the names behind them.

    Raises:
        SchemaError: A column has another type than the schema, or is not in it.
    """
    if unknown := sorted(extra.keys() - set(schema.names)):
        raise SchemaError(f"column {unknown[0]!r} of an enricher is not in the schema")
    given = {name: batch.column(name) for name in batch.schema.names} | dict(extra)
    masks, bits = view(given["quality"]), tuple(quality_bits(texts, flags))
    for name in extra:
        if (
            given[name].null_count or f"{name}_missing" in bits
        ):  # what the kernel lacked an enricher may know
            array = given[name]
            given[name], absent = without_nulls(array)
            if pa.types.is_map(array.type):
                given[name] = entries_kept(array)
            masks, bits = _flagged(masks, bits, f"{name}_missing", absent)
    missing = [name for name in schema.names if name not in given]
    for name in missing:
        given[name] = _empty(schema.field(name).type, batch.num_rows)
    lacking = [f"{name}_missing" for name in missing if not is_optional(schema.field(name))]
    given["quality"] = quality_names(masks, bits, lacking)
    for field in schema:
        if given[field.name].type != field.type:
            raise SchemaError(
                f"column {field.name!r} is {given[field.name].type}, and the schema wants {field.type}"
            )
    return pa.RecordBatch.from_arrays([given[name] for name in schema.names], schema=schema)


def _flagged(
    masks: npt.NDArray[np.uint64], bits: tuple[str, ...], name: str, rows: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint64], tuple[str, ...]]:
    """The masks with the bit of a name set for some rows and for no others, and the names of the bits."""
    bits = bits if name in bits else (*bits, name)
    if len(bits) > QUALITY_BITS:
        raise SchemaError(
            f"no bit of quality is left for {name!r}: the probe has too many TEXT columns and flags"
        )
    bit = np.uint64(1 << bits.index(name))
    return np.where(rows, masks | bit, masks & ~bit), bits


def _empty(kind: pa.DataType, rows: int) -> pa.Array:
    if pa.types.is_dictionary(kind):
        empty: Any = b"" if pa.types.is_binary(kind.value_type) else ""
        return constant(empty, rows, kind.value_type)
    if pa.types.is_list(kind):
        offsets = numbers(np.zeros(rows + 1, np.int32))
        return pa.ListArray.from_arrays(offsets, _empty(kind.value_type, 0), type=kind)
    if pa.types.is_map(kind):
        pairs = (_empty(kind.key_type, 0), _empty(kind.item_type, 0))
        return pa.MapArray.from_arrays(numbers(np.zeros(rows + 1, np.int32)), *pairs, type=kind)
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return pa.Array.from_buffers(
            kind, rows, [None, pa.py_buffer(np.zeros(rows + 1, np.int32)), pa.py_buffer(b"")]
        )
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(
            kind, rows, [None, pa.py_buffer(bytes(rows * kind.byte_width))]
        )
    return numbers(np.zeros(rows, np.int64)).cast(kind)
