"""Checks that a batch from the wire is what it declares to be. Nothing here accesses the store."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_DROPPED,
    REJECTION_REASON_MALFORMED,
    REJECTION_REASON_SCHEMA_MISMATCH,
    REJECTION_REASON_TOO_LARGE,
    REJECTION_REASON_UNKNOWN_PROBE,
    Batch,
    Container,
    Rejection,
    RejectionReason,
)
from infrasight_core.containers.bounds import find_violation
from infrasight_core.errors import SchemaError
from infrasight_core.net import ipc, zstd_frame
from infrasight_core.plugin.arrays import view
from infrasight_core.plugin.schema import EventSchema

from infrasight_server.ingest.arrow_size import ArrowSize, measure
from infrasight_server.ingest.protobuf_batches import table_from_messages
from infrasight_server.ingest.schema_versions import adapt, find_incompatibility, parse_schema
from infrasight_server.limits import (
    MAX_DAYS,
    MAX_DETAIL_LENGTH,
    MAX_DICTIONARY_VALUE_BYTES,
    MAX_DICTIONARY_VALUES,
    MAX_ID_BYTES,
    MAX_LIST_ITEMS,
    MAX_ROWS,
    MAX_VALUE_BYTES,
    BatchLimits,
    find_account_violation,
    find_identifier_violation,
    find_time_violation,
)

_DAY_NS: Final = 86_400 * 10**9
_SERVER_ROW_BYTES: Final = 16
"""What the columns `node`, `batch_id` and `received_time` add to a row."""
_MESSAGE_ROW_BYTES: Final = 1_024
"""What a row of empty values takes."""


def validate_head(
    batch: Batch, account_probes: Collection[str], limits: BatchLimits
) -> Rejection | None:
    """Returns why a batch is rejected for what stands beside its rows; None if that is valid.

    Args:
        batch: Any batch.
        account_probes: The probes whose accounts are stored.
        limits: The bounds.
    """
    violation = _head_violation(batch, limits)
    if violation:
        return reject(batch, REJECTION_REASON_MALFORMED, violation)
    if batch.rows > MAX_ROWS:
        return reject(
            batch, REJECTION_REASON_TOO_LARGE, f"{batch.rows} rows exceed the limit of {MAX_ROWS}"
        )
    size = batch.ByteSize()
    if size > limits.max_batch_bytes:
        return reject(
            batch,
            REJECTION_REASON_TOO_LARGE,
            f"{size} bytes exceed the limit of {limits.max_batch_bytes}; "
            f"send fewer {'containers' if batch.containers else 'rows'} at once",
        )
    has_only_account = batch.HasField("account") and not batch.rows and not batch.containers
    if has_only_account and batch.probe not in account_probes:
        return reject(batch, REJECTION_REASON_UNKNOWN_PROBE, "the server stores no such account")
    return None


def measure_rows(batch: Batch, limits: BatchLimits) -> int | Rejection:
    """Returns how much memory a batch's rows need, or why the batch is rejected.

    Args:
        batch: A batch whose head is valid.
        limits: The bounds.
    """
    if batch.dropped:
        return reject(batch, REJECTION_REASON_DROPPED, "the agent has dropped its rows")
    if batch.WhichOneof("body") is None:
        return reject(batch, REJECTION_REASON_MALFORMED, "it has no body")
    rows = len(batch.messages.messages)
    needed = rows * _MESSAGE_ROW_BYTES + 2 * batch.messages.ByteSize()
    try:
        if zstd_frame.is_frame(batch.arrow):
            # It is measured further once it is decompressed, when its memory has been reserved.
            rows = batch.rows
            needed = _content_size(batch.arrow, limits) + rows * _SERVER_ROW_BYTES
        elif batch.WhichOneof("body") == "arrow":
            size = _measure_stream(batch.arrow, limits.max_decoded_bytes)
            rows = size.rows
            needed = size.bytes + rows * _SERVER_ROW_BYTES
    except SchemaError as error:
        return reject(batch, REJECTION_REASON_MALFORMED, str(error))
    if rows != batch.rows:
        return reject(
            batch,
            REJECTION_REASON_MALFORMED,
            f"it declares {batch.rows} rows and contains {rows}",
        )
    return needed


def decode_events(batch: Batch, schema: EventSchema) -> pa.Table | Rejection:
    """Returns a batch's events as the agent columns of its probe, or why it is rejected.

    Args:
        batch: A batch of a known probe; `validate_head` and `measure_rows` accept it.
        schema: That probe's schema.
    """
    is_other_message = batch.message_type != schema.message_type
    is_other_version = batch.fingerprint != schema.fingerprint
    if is_other_message or (is_other_version and batch.WhichOneof("body") != "arrow"):
        mismatch = schema_mismatch(schema, batch.message_type, batch.fingerprint)
        return reject(batch, REJECTION_REASON_SCHEMA_MISMATCH, mismatch)
    try:
        table = _table(batch, schema, is_other_version)
        if is_other_version:
            mismatch = find_incompatibility(table.schema, schema.agent)
            if mismatch:
                return reject(batch, REJECTION_REASON_SCHEMA_MISMATCH, mismatch)
            table = adapt(table, schema.agent)
    except SchemaError as error:
        return reject(batch, REJECTION_REASON_MALFORMED, str(error))
    if table.num_rows != batch.rows:
        return reject(
            batch,
            REJECTION_REASON_MALFORMED,
            f"it declares {batch.rows} rows and contains {table.num_rows}",
        )
    return table


def merge_events(
    tables: Sequence[pa.Table], schema: EventSchema, limits: BatchLimits
) -> pa.RecordBatch:
    """Returns the events of several batches in one piece.

    The cost of a check is paid for each column, not for each column of each batch. Which batch
    fails is not known: merge fewer of them to find it.

    Args:
        tables: What `decode_events` returns for each batch.
        schema: The schema of the batches' probe.
        limits: The bounds.

    Raises:
        SchemaError: The events of a batch are malformed, or exceed a bound.
    """
    # After an empty one, dictionaries are always unified, so that none has a value twice. An insert
    # with such a dictionary would be rejected by ClickHouse.
    empty = [pa.nulls(0, field.type) for field in schema.agent]
    first = pa.Table.from_arrays(empty, schema=schema.agent)
    chunked = pa.concat_tables([first, *tables])
    try:
        columns = [column.combine_chunks() for column in chunked.columns]
    except pa.ArrowException as error:  # Arrow cannot unify dictionaries with nulls
        for name, column in zip(chunked.column_names, chunked.columns, strict=True):
            if any(_has_nulls(chunk) for chunk in column.chunks):
                raise SchemaError(f"column {name} has nulls") from error
        raise SchemaError(f"its columns cannot be merged: {error}") from error
    rows = pa.RecordBatch.from_arrays(columns, schema=schema.agent)
    violation = _rows_violation(rows, limits)
    if violation:
        raise SchemaError(violation)
    return rows


def validate_containers(batch: Batch, limits: BatchLimits) -> Rejection | None:
    """Returns why a batch of container updates is rejected; None if it is valid."""
    if batch.rows or batch.WhichOneof("body") or batch.HasField("account"):
        violation = "a batch of containers must have neither rows nor an account"
    else:
        violation = _first_violation(batch.containers, limits.accepted_seconds())
    return reject(batch, REJECTION_REASON_MALFORMED, violation) if violation else None


def reject(batch: Batch, reason: RejectionReason, problem: str) -> Rejection:
    """Returns the rejection of a batch, with a detail of bounded length."""
    subject = "containers" if batch.containers else batch.probe[:MAX_ID_BYTES]
    detail = f"batch {batch.batch_id[:MAX_ID_BYTES]!r} of {subject}: {problem}"
    return Rejection(batch_id=batch.batch_id, reason=reason, detail=detail[:MAX_DETAIL_LENGTH])


def days_of(rows: pa.RecordBatch) -> frozenset[int]:
    """Returns the days since the epoch that the events lie in."""
    days = view(rows["time"].cast(pa.int64())) // _DAY_NS
    if not len(days) or days.min() == days.max():
        return frozenset(days[:1].tolist())
    return frozenset(np.unique(days).tolist())


def schema_mismatch(
    schema: EventSchema, message_type: str, fingerprint: str, columns: bytes = b""
) -> str:
    """Returns why the server cannot store the events of an agent's probe; "" if it can.

    Args:
        schema: The server's version.
        message_type: The agent's protobuf message.
        fingerprint: The agent's fingerprint.
        columns: The columns that the agent sends, as a serialized Arrow schema; b"" if it does not
            say.
    """
    if message_type != schema.message_type:
        return f"the agent's message is {message_type!r}, the server's is {schema.message_type!r}"
    if fingerprint == schema.fingerprint:
        return ""
    if columns:
        try:
            return find_incompatibility(parse_schema(columns), schema.agent)
        except SchemaError as error:
            return str(error)
    return (
        f"the agent's schema of {message_type} has fingerprint {fingerprint!r}, "
        f"the server's {schema.fingerprint!r}; install the same version of the probe on both"
    )


def _table(batch: Batch, schema: EventSchema, is_other_version: bool) -> pa.Table:
    if batch.WhichOneof("body") == "messages":
        return table_from_messages(batch.messages.messages, schema)
    stream = batch.arrow
    if zstd_frame.is_frame(stream):
        stream = zstd_frame.decompress(stream)
        # Only so much memory is reserved: its buffers must not be compressed once more.
        _measure_stream(stream, len(stream))
    return ipc.from_bytes(stream, None if is_other_version else schema.agent)


def _content_size(frame: bytes, limits: BatchLimits) -> int:
    """Returns the size of a frame's content. Raises SchemaError."""
    size = zstd_frame.content_size(frame)
    if size > limits.max_decoded_bytes:
        raise SchemaError(
            f"its rows exceed {limits.max_decoded_bytes} bytes after decompression; "
            "send fewer rows at once"
        )
    return size


def _measure_stream(stream: bytes, max_bytes: int) -> ArrowSize:
    """Returns the size of an IPC stream. Raises SchemaError if one of its bounds is exceeded."""
    size = measure(stream, max_bytes)
    most = max(size.rows, MAX_DICTIONARY_VALUES)
    if size.dictionary_values > most:
        raise SchemaError(f"a dictionary has {size.dictionary_values} values, more than {most}")
    return size


def _has_nulls(array: pa.Array) -> bool:
    if array.null_count:
        return True
    if isinstance(array, pa.DictionaryArray):
        return bool(array.dictionary.null_count)
    if isinstance(array, pa.MapArray):
        return _has_nulls(array.keys) or _has_nulls(array.items)
    return isinstance(array, pa.ListArray) and _has_nulls(array.flatten())


def _head_violation(batch: Batch, limits: BatchLimits) -> str:
    if not batch.batch_id:
        return "it has no batch_id"
    violation = find_identifier_violation("its id", batch.batch_id)
    if not violation and (batch.probe or not batch.containers):
        violation = find_identifier_violation("its probe", batch.probe)
    if not violation and batch.HasField("account") and not batch.containers:
        violation = find_account_violation(batch.account, limits.accepted_seconds())
    if violation:
        return violation
    for name in ("message_type", "fingerprint"):
        if len(getattr(batch, name)) > MAX_ID_BYTES:
            return f"its {name} is longer than {MAX_ID_BYTES} characters"
    return ""


def _rows_violation(rows: pa.RecordBatch, limits: BatchLimits) -> str:
    """Returns which bound the rows exceed; "" for none."""
    if not rows.num_rows:
        return ""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if _has_nulls(column):
            return f"column {name} has nulls"
    times = view(rows["time"].cast(pa.int64()))
    first = int(times.min())
    last = int(times.max())
    violation = find_time_violation(first, last, limits.accepted_seconds())
    if violation:
        return violation
    if last // _DAY_NS - first // _DAY_NS >= MAX_DAYS and len(days_of(rows)) > MAX_DAYS:
        return f"its events lie in more than {MAX_DAYS} days; send fewer days at once"
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        violation = _column_violation(column, rows.num_rows)
        if violation:
            return f"column {name} has {violation}"
    return ""


def _column_violation(array: pa.Array, rows: int) -> str:
    if isinstance(array, pa.DictionaryArray):
        most = max(rows, MAX_DICTIONARY_VALUES)
        if len(array.dictionary) > most:
            return f"{len(array.dictionary)} different values, more than {most}"
        return _length_violation(array.dictionary, MAX_DICTIONARY_VALUE_BYTES)
    if isinstance(array, pa.MapArray | pa.ListArray):
        parts = (array.keys, array.items) if isinstance(array, pa.MapArray) else (array.values,)
        if len(parts[0]) > MAX_LIST_ITEMS:
            return f"{len(parts[0])} items, more than {MAX_LIST_ITEMS}"
        violations = [_column_violation(part, rows) for part in parts]
        return next(filter(None, violations), "")
    return _length_violation(array, MAX_VALUE_BYTES)


def _length_violation(array: pa.Array, most: int) -> str:
    is_text = pa.types.is_binary(array.type) or pa.types.is_string(array.type)
    if not is_text or not len(array):
        return ""
    longest = pc.max(pc.binary_length(array)).as_py()
    return f"a value of {longest} bytes, more than {most}" if longest > most else ""


def _first_violation(containers: Iterable[Container], accepted_seconds: range) -> str:
    for container in containers:
        violation = find_violation(container)
        if violation:
            return violation
        if container.time.seconds >= accepted_seconds.stop:
            return f"container {container.container_id!r}: its time is in the future"
    return ""
