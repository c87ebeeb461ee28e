"""Checks that a batch from the wire is what it declares to be. Nothing here accesses the store."""

from collections.abc import Iterable

import pyarrow as pa
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_MALFORMED,
    REJECTION_REASON_SCHEMA_MISMATCH,
    REJECTION_REASON_TOO_LARGE,
    Batch,
    Container,
    Rejection,
    RejectionReason,
)
from infrasight_core.containers.bounds import find_violation
from infrasight_core.errors import SchemaError
from infrasight_core.net import ipc
from infrasight_core.plugin.schema import EventSchema

from infrasight_server.ingest.protobuf_batches import table_from_messages


def validate_events(
    batch: Batch, schema: EventSchema, max_batch_bytes: int
) -> pa.Table | Rejection:
    """Returns a batch's events as the agent columns of its probe, or why it is rejected.

    Args:
        batch: A batch of a known probe.
        schema: That probe's schema.
        max_batch_bytes: The largest size of a batch on the wire.
    """

    def reject(reason: RejectionReason, detail: str) -> Rejection:
        detail = f"batch {batch.batch_id!r} of {batch.probe}: {detail}"
        return Rejection(batch_id=batch.batch_id, reason=reason, detail=detail)

    size = batch.ByteSize()
    if size > max_batch_bytes:
        return reject(
            REJECTION_REASON_TOO_LARGE,
            f"{size} bytes exceed the limit of {max_batch_bytes}; send fewer rows at once",
        )
    mismatch = schema_mismatch(schema, batch.message_type, batch.fingerprint)
    if mismatch:
        return reject(REJECTION_REASON_SCHEMA_MISMATCH, mismatch)
    if not batch.batch_id:
        return reject(REJECTION_REASON_MALFORMED, "it has no batch_id")
    try:
        table = _table(batch, schema)
    except SchemaError as error:
        return reject(REJECTION_REASON_MALFORMED, str(error))
    if table.num_rows != batch.rows:
        return reject(
            REJECTION_REASON_MALFORMED,
            f"it declares {batch.rows} rows and contains {table.num_rows}",
        )
    return table


def validate_containers(batch: Batch, max_batch_bytes: int) -> Rejection | None:
    """Returns why a batch of container updates is rejected; None if it is valid."""
    size = batch.ByteSize()
    if size > max_batch_bytes:
        return Rejection(
            batch_id=batch.batch_id,
            reason=REJECTION_REASON_TOO_LARGE,
            detail=f"containers: {size} bytes exceed the limit of {max_batch_bytes}; "
            "send fewer containers at once",
        )
    if not batch.batch_id:
        violation = "it has no batch_id"
    elif batch.rows or batch.WhichOneof("body") or batch.HasField("account"):
        violation = "a batch of containers must have neither rows nor an account"
    else:
        violation = _first_violation(batch.containers)
    if not violation:
        return None
    return Rejection(
        batch_id=batch.batch_id,
        reason=REJECTION_REASON_MALFORMED,
        detail=f"batch {batch.batch_id!r} of containers: {violation}",
    )


def schema_mismatch(schema: EventSchema, message_type: str, fingerprint: str) -> str:
    """Returns how an agent's schema differs from the server's; "" if it does not."""
    if message_type != schema.message_type:
        return f"the agent's message is {message_type!r}, the server's is {schema.message_type!r}"
    if fingerprint != schema.fingerprint:
        return (
            f"the agent's schema of {message_type} has fingerprint {fingerprint!r}, "
            f"the server's {schema.fingerprint!r}; install the same version of the probe on both"
        )
    return ""


def _table(batch: Batch, schema: EventSchema) -> pa.Table:
    match batch.WhichOneof("body"):
        case "arrow":
            table = ipc.from_bytes(batch.arrow)
        case "messages":
            return table_from_messages(batch.messages.messages, schema)
        case _:
            raise SchemaError("it has no body")
    if not table.schema.equals(schema.agent):
        raise SchemaError(_difference(table.schema, schema.agent))
    for name, column in zip(table.column_names, table.columns, strict=True):
        if any(_has_nulls(chunk) for chunk in column.chunks):
            raise SchemaError(f"column {name} has nulls")
    return table


def _has_nulls(array: pa.Array) -> bool:
    if array.null_count:
        return True
    if isinstance(array, pa.DictionaryArray):
        return bool(array.dictionary.null_count)
    if isinstance(array, pa.MapArray):
        return _has_nulls(array.keys) or _has_nulls(array.items)
    return isinstance(array, pa.ListArray) and _has_nulls(array.flatten())


def _difference(sent: pa.Schema, expected: pa.Schema) -> str:
    if sent.names != expected.names:
        missing = [name for name in expected.names if name not in sent.names]
        unknown = [name for name in sent.names if name not in expected.names]
        return (
            "its columns are not the probe's: "
            f"missing {missing}, unknown {unknown}, or in another order"
        )
    differences = [
        f"{ours.name} is {theirs}, not {ours}"
        for theirs, ours in zip(sent, expected, strict=True)
        if not theirs.equals(ours)
    ]
    return f"its columns have other types: {'; '.join(differences)}"


def _first_violation(containers: Iterable[Container]) -> str:
    for container in containers:
        violation = find_violation(container)
        if violation:
            return violation
    return ""
