"""Assembles a record batch from drained columns and makes it conform to the probe's schema.

The recorder calls `assemble` after a probe's `decode`, and `conform` after the enrichers. The
conforming batch then goes to the outbox.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from infrasight_core.errors import SchemaError
from infrasight_core.plugin.arrays import empty_values, numbers, strings, view
from infrasight_core.plugin.clock import wall_clock_offset_ns
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.quality import QualityMasks, fill_missing, flag_names, missing_flag
from infrasight_core.plugin.schema import TIMESTAMP, is_optional

# A process key holds the process's start time in units of 2^20 ns above 22 bits of its pid; see
# `infrasight.bpf.h`.
_KEY_TIME_SHIFT = 20
_KEY_PID_BITS = 22
_PROCESS_KEYS = ("process_key", "parent_process_key", "grandparent_process_key")
_VIA = ("syscall", "compat", "io_uring", "kernel")  # enum via in call.bpf.h


def boot_key_of(boot_time_ns: int) -> np.uint64:
    """Returns the offset from a block's process keys, which count from boot, to keys since 1970.

    Args:
        boot_time_ns: The time of boot in nanoseconds since the epoch.
    """
    return np.uint64((boot_time_ns >> _KEY_TIME_SHIFT) << _KEY_PID_BITS)


def assemble(
    columns: Columns, decoded: Mapping[str, pa.Array], schema: pa.Schema, boot_key: np.uint64
) -> pa.RecordBatch:
    """Makes a batch of the block's columns and those that the probe decoded.

    Args:
        columns: The drained events.
        decoded: The columns that the probe's `decode` returned; they replace the block's.
        schema: The probe's agent columns.
        boot_key: See `boot_key_of`.

    Returns:
        The columns of the schema that the agent has before enrichment, in the schema's order.
        `quality` is still the block's mask.
    """
    arrays: dict[str, pa.Array] = {}
    for name in schema.names:
        if name in decoded:
            arrays[name] = decoded[name]
        elif name == "cpu":
            arrays[name] = numbers(columns.cpu)
        elif name == "sequence":
            arrays[name] = numbers(columns.sequence)
        elif name == "time":
            offset = np.uint64(wall_clock_offset_ns())
            arrays[name] = numbers(columns.fixed[name] + offset, TIMESTAMP)
        elif name in _PROCESS_KEYS:
            arrays[name] = numbers(columns.fixed[name] + boot_key)
        elif name == "via" and name in columns.fixed:
            codes = numbers(columns.fixed[name].astype(np.int32))
            arrays[name] = pa.DictionaryArray.from_arrays(codes, strings(_VIA, pa.string()))
        elif name in columns.fixed or name in columns.texts:
            is_address = pa.types.is_fixed_size_binary(schema.field(name).type)
            arrays[name] = columns.whole(name) if is_address else columns.array(name)
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def conform(
    batch: pa.RecordBatch,
    enriched: Mapping[str, pa.Array],
    schema: pa.Schema,
    texts: Sequence[str],
    flags: Sequence[str] = (),
) -> pa.RecordBatch:
    """Adds the enrichers' columns and brings the batch into the schema's order and types.

    A null of an enricher becomes the type's empty value and a flag in its row's `quality`
    (`<column>_missing`). A column without a source is empty, and flagged in every row unless it is
    optional.

    Args:
        batch: The batch that `assemble` returned.
        enriched: The enrichers' columns.
        schema: The probe's agent columns.
        texts: The block's TEXT columns in order, which name the first bits of its masks.
        flags: The probe's own flags in order, which name the bits behind them.

    Raises:
        SchemaError: A column is not in the schema or has another type than there.
    """
    if unknown := sorted(enriched.keys() - set(schema.names)):
        raise SchemaError(f"column {unknown[0]!r} of an enricher is not in the schema")
    arrays = {name: batch.column(name) for name in batch.schema.names} | dict(enriched)
    quality = QualityMasks(view(arrays["quality"]), flag_names(texts, flags))
    for name, array in enriched.items():
        # An enricher may have a value that the kernel lacked: its flag is then cleared.
        if array.null_count or missing_flag(name) in quality:
            arrays[name], missing = fill_missing(array)
            quality.set(missing_flag(name), missing)
    flags_of_every_row = []
    for field in schema:
        if field.name not in arrays:
            arrays[field.name] = empty_values(batch.num_rows, field.type)
            if not is_optional(field):
                flags_of_every_row.append(missing_flag(field.name))
    arrays["quality"] = quality.names(flags_of_every_row)
    for field in schema:
        if arrays[field.name].type != field.type:
            raise SchemaError(
                f"column {field.name!r} has the type {arrays[field.name].type}, "
                f"but the schema has {field.type}"
            )
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)
