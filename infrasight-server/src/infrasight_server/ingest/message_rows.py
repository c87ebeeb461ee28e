"""Batches from clients without Arrow: protobuf messages become the columns that an agent would have sent."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from infrasight_core.errors import SchemaError
from infrasight_core.plugin.schema import IP_ADDRESS, EventSchema, event_fields, set_by_server

_NANOSECONDS = 1_000_000_000


def columns_of(bodies: Sequence[bytes], schema: EventSchema) -> pa.Table:
    """The agent columns of some serialised messages.

    This is the one place where rows are taken one by one: they came so.

    Raises:
        SchemaError: One is not a message of the probe's type, or a value does not fit its column.
    """
    try:
        messages = [schema.message.FromString(body) for body in bodies]
    except DecodeError as error:
        raise SchemaError(f"a message is not a {schema.message_type}: {error}") from error
    own = schema.message.DESCRIPTOR
    columns = []
    for field in event_fields(schema.message):
        if set_by_server(field):
            continue
        holders = messages if field.containing_type is own else [m.header for m in messages]  # type: ignore[attr-defined]
        columns.append(_array(field, holders, schema.agent.field(field.name).type))
    return pa.Table.from_arrays(columns, schema=schema.agent)


def _array(field: FieldDescriptor, holders: Sequence[Message], arrow_type: pa.DataType) -> pa.Array:
    values: list[Any] = [getattr(holder, field.name) for holder in holders]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = [list(value.items()) for value in values]
    elif field.message_type is not None:  # a Timestamp
        values = [[*map(_nanoseconds, v)] if field.is_repeated else _nanoseconds(v) for v in values]
    elif field.is_repeated:
        values = [list(value) for value in values]
    elif arrow_type == IP_ADDRESS:  # a client that has none leaves it out
        values = [value or bytes(IP_ADDRESS.byte_width) for value in values]
    try:
        return pa.array(values, arrow_type)
    except (pa.ArrowException, OverflowError) as error:
        raise SchemaError(f"column {field.name}: {error}") from error


def _nanoseconds(timestamp: Any) -> int:
    return int(timestamp.seconds) * _NANOSECONDS + int(timestamp.nanos)
