"""Whether a batch from the wire is what it says it is. Nothing here touches the store."""

import pyarrow as pa
from infrasight.v1.stream_pb2 import (
    REJECTION_REASON_MALFORMED,
    REJECTION_REASON_SCHEMA_MISMATCH,
    REJECTION_REASON_TOO_LARGE,
    Batch,
    Rejection,
    RejectionReason,
)
from infrasight_core.errors import SchemaError
from infrasight_core.net import ipc
from infrasight_core.plugin.schema import EventSchema

from infrasight_server.ingest.message_rows import columns_of


def validate(batch: Batch, schema: EventSchema, max_batch_bytes: int) -> pa.Table | Rejection:
    """The batch's rows as the agent columns of its probe, or why it is rejected.

    Args:
        batch: A batch whose probe is known.
        schema: That probe's schema.
        max_batch_bytes: The longest body, in bytes as sent.
    """

    def rejected(reason: RejectionReason, detail: str) -> Rejection:
        return Rejection(
            batch_id=batch.batch_id,
            reason=reason,
            detail=f"batch {batch.batch_id!r} of {batch.probe}: {detail}",
        )

    size = batch.ByteSize()
    if size > max_batch_bytes:
        return rejected(
            REJECTION_REASON_TOO_LARGE,
            f"{size} bytes, at most {max_batch_bytes} are taken; send fewer rows at once",
        )
    if mismatch := schema_mismatch(schema, batch.message_type, batch.fingerprint):
        return rejected(REJECTION_REASON_SCHEMA_MISMATCH, mismatch)
    if not batch.batch_id:
        return rejected(REJECTION_REASON_MALFORMED, "it has no batch_id")
    try:
        table = _table(batch, schema)
    except SchemaError as error:
        return rejected(REJECTION_REASON_MALFORMED, str(error))
    if table.num_rows != batch.rows:
        return rejected(
            REJECTION_REASON_MALFORMED, f"it says {batch.rows} rows and holds {table.num_rows}"
        )
    return table


def schema_mismatch(schema: EventSchema, message_type: str, fingerprint: str) -> str:
    """How an agent's schema differs from the server's; empty when it does not."""
    if message_type != schema.message_type:
        return f"the agent's message is {message_type!r}, the server's is {schema.message_type!r}"
    if fingerprint != schema.fingerprint:
        return (
            f"the agent's schema of {message_type} has fingerprint {fingerprint!r}, the server's {schema.fingerprint!r}; "
            "install the same version of the probe on both"
        )
    return ""


def _table(batch: Batch, schema: EventSchema) -> pa.Table:
    match batch.WhichOneof("body"):
        case "arrow":
            table = ipc.from_bytes(batch.arrow)
        case "messages":
            return columns_of(batch.messages.messages, schema)
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
    return isinstance(array, pa.ListArray | pa.MapArray) and any(
        _has_nulls(child) for child in _children(array)
    )


def _children(array: pa.ListArray | pa.MapArray) -> tuple[pa.Array, ...]:
    return (array.keys, array.items) if isinstance(array, pa.MapArray) else (array.flatten(),)


def _difference(sent: pa.Schema, wanted: pa.Schema) -> str:
    if sent.names != wanted.names:
        missing = [n for n in wanted.names if n not in sent.names]
        unknown = [n for n in sent.names if n not in wanted.names]
        return f"its columns are not the probe's: missing {missing}, unknown {unknown}, or in another order"
    wrong = [
        f"{w.name} is {s}, not {w}" for s, w in zip(sent, wanted, strict=True) if not s.equals(w)
    ]
    return f"its columns have other types: {'; '.join(wrong)}"
