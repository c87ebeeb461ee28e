"""An event's schema: Arrow columns derived from the protobuf message."""

import hashlib
from functools import cached_property
from importlib.resources.abc import Traversable
from pathlib import Path

import pyarrow as pa
from attrs import frozen
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from infrasight.v1.column_pb2 import ORIGIN_SERVER, Column, column
from infrasight.v1.event_pb2 import EventHeader

from infrasight_core.errors import SchemaError

IP_ADDRESS = pa.binary(16)
IP_ADDRESS_MARK = {b"infrasight": b"ip_address"}
"""Field metadata that tells addresses from other columns of 16 bytes."""
OPTIONAL_MARK = {b"infrasight.optional": b"yes"}
"""Field metadata of columns that may stay empty without a flag in `quality`."""
TIMESTAMP = pa.timestamp("ns", "UTC")
_TIMESTAMP_MESSAGE = "google.protobuf.Timestamp"
_SCALARS = {
    FieldDescriptor.TYPE_BOOL: pa.bool_(),
    FieldDescriptor.TYPE_INT32: pa.int32(),
    FieldDescriptor.TYPE_SINT32: pa.int32(),
    FieldDescriptor.TYPE_INT64: pa.int64(),
    FieldDescriptor.TYPE_SINT64: pa.int64(),
    FieldDescriptor.TYPE_UINT32: pa.uint32(),
    FieldDescriptor.TYPE_UINT64: pa.uint64(),
    FieldDescriptor.TYPE_FLOAT: pa.float32(),
    FieldDescriptor.TYPE_DOUBLE: pa.float64(),
    FieldDescriptor.TYPE_STRING: pa.string(),
    FieldDescriptor.TYPE_BYTES: pa.binary(),
}


@frozen(slots=False)
class EventSchema:
    """The schema of one probe's events.

    Attributes:
        message: The protobuf message class; its first field is `infrasight.v1.EventHeader header`.
        ddl: The `.sql` file: one `CREATE TABLE IF NOT EXISTS <probe>_events` statement with the
            probe's own columns. The core adds the header's columns and the defaults.
    """

    message: type[Message]
    ddl: Path | Traversable

    @property
    def message_type(self) -> str:
        """The full protobuf name of the message."""
        return str(self.message.DESCRIPTOR.full_name)

    @cached_property
    def stored(self) -> pa.Schema:
        """All stored columns in the order of the table: the header's, then the probe's own."""
        return pa.schema(_arrow_field(f) for f in event_fields(self.message))

    @cached_property
    def agent(self) -> pa.Schema:
        """The columns that an agent sends: all except those that the server fills."""
        return pa.schema(
            _arrow_field(f) for f in event_fields(self.message) if not set_by_server(f)
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash over names, types and order of the stored columns, as 16 hexadecimal digits."""
        text = "\n".join(f"{f.name} {f.type}" for f in self.stored)
        return hashlib.sha256(f"{self.message_type}\n{text}".encode()).hexdigest()[:16]

    def ddl_text(self) -> str:
        """Returns the text of the `.sql` file. Raises OSError."""
        return self.ddl.read_text(encoding="utf-8")


def event_fields(message: type[Message]) -> list[FieldDescriptor]:
    """Returns the fields of an event in column order: the header's, then the message's own.

    Raises:
        SchemaError: The message has no header of the right type, or a name occurs twice.
    """
    descriptor = message.DESCRIPTOR
    first = descriptor.fields[0] if descriptor.fields else None
    if first is None or first.name != "header" or first.message_type != EventHeader.DESCRIPTOR:
        raise SchemaError(
            f"{descriptor.full_name}: the first field must be 'infrasight.v1.EventHeader header'"
        )
    fields = [*EventHeader.DESCRIPTOR.fields, *descriptor.fields[1:]]
    names = [f.name for f in fields]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SchemaError(
            f"{descriptor.full_name}: {', '.join(repeated)}: "
            "the header has that column already; rename yours"
        )
    return fields


def set_by_server(field: FieldDescriptor) -> bool:
    """Returns whether the server fills the column, so that agents do not send it."""
    return _column(field).origin == ORIGIN_SERVER


def is_optional(field: pa.Field) -> bool:
    """Returns whether a column may stay empty without a flag in `quality`."""
    return OPTIONAL_MARK.items() <= (field.metadata or {}).items()


def _column(field: FieldDescriptor) -> Column:
    extensions = field.GetOptions().Extensions
    options: Column = extensions[column]  # type: ignore[index]  # the stubs lack extensions
    return options


def _arrow_field(field: FieldDescriptor) -> pa.Field:
    options = _column(field)
    marks: dict[bytes, bytes] = {}
    if options.ip_address:
        marks |= IP_ADDRESS_MARK
    if options.optional:
        marks |= OPTIONAL_MARK
    return pa.field(field.name, _arrow_type(field), nullable=False, metadata=marks or None)


def _arrow_type(field: FieldDescriptor) -> pa.DataType:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key_type = _arrow_type(message.fields_by_name["key"])
        value_type = _arrow_type(message.fields_by_name["value"])
        return pa.map_(key_type, value_type)
    item_type = _item_type(field)
    if _column(field).dictionary:
        item_type = pa.dictionary(pa.int32(), item_type)
    if field.is_repeated:
        return pa.list_(pa.field("item", item_type, nullable=False))
    return item_type


def _item_type(field: FieldDescriptor) -> pa.DataType:
    if _column(field).ip_address:
        if field.type != FieldDescriptor.TYPE_BYTES:
            raise SchemaError(f"{field.full_name}: the option ip_address requires type bytes")
        return IP_ADDRESS
    if field.message_type is not None and field.message_type.full_name == _TIMESTAMP_MESSAGE:
        return TIMESTAMP
    if field.type == FieldDescriptor.TYPE_ENUM:
        return pa.int32()
    if field.type in _SCALARS:
        return _SCALARS[field.type]
    raise SchemaError(
        f"{field.full_name}: the field has no column type; "
        "use scalars, bytes, enums, Timestamp, or repeated fields or maps of them"
    )
