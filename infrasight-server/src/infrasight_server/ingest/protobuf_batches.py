"""Converts batches of protobuf messages, from clients without Arrow, into an agent's columns."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from infrasight_core.errors import SchemaError
from infrasight_core.plugin.schema import IP_ADDRESS, EventSchema, event_fields, set_by_server

_NANOSECONDS = 1_000_000_000
_ROWS_AT_ONCE = 1_000  # a message takes many times the memory of a row


def table_from_messages(bodies: Sequence[bytes], schema: EventSchema) -> pa.Table:
    """Returns the agent columns of serialized messages.

    This is the only code that handles events one by one, because they arrive so.

    Raises:
        SchemaError: A message is not of the probe's type, or a value does not fit its column.
    """
    tables = [
        _table(bodies[first : first + _ROWS_AT_ONCE], schema)
        for first in range(0, len(bodies), _ROWS_AT_ONCE)
    ]
    return pa.concat_tables(tables) if tables else schema.agent.empty_table()


def _table(bodies: Sequence[bytes], schema: EventSchema) -> pa.Table:
    try:
        messages = [schema.message.FromString(body) for body in bodies]
    except DecodeError as error:
        raise SchemaError(f"a message is not a {schema.message_type}: {error}") from error
    headers = [message.header for message in messages]  # type: ignore[attr-defined]
    columns = []
    for field in event_fields(schema.message):
        if set_by_server(field):
            continue
        is_own = field.containing_type is schema.message.DESCRIPTOR
        holders = messages if is_own else headers
        columns.append(_column(field, holders, schema.agent.field(field.name).type))
    return pa.Table.from_arrays(columns, schema=schema.agent)


def _column(
    field: FieldDescriptor, holders: Sequence[Message], arrow_type: pa.DataType
) -> pa.Array:
    values = [_value(field, getattr(holder, field.name)) for holder in holders]
    if arrow_type == IP_ADDRESS:  # a client without an address leaves the field out
        values = [value or bytes(IP_ADDRESS.byte_width) for value in values]
    try:
        return pa.array(values, arrow_type)
    except (pa.ArrowException, OverflowError) as error:
        raise SchemaError(f"column {field.name}: {error}") from error


def _value(field: FieldDescriptor, value: Any) -> Any:
    """Returns the Python value that pyarrow expects for a field's value."""
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return list(value.items())
    if message is not None and field.is_repeated:
        return [_nanoseconds(timestamp) for timestamp in value]
    if message is not None:
        return _nanoseconds(value)
    return list(value) if field.is_repeated else value


def _nanoseconds(timestamp: Any) -> int:
    return int(timestamp.seconds) * _NANOSECONDS + int(timestamp.nanos)
