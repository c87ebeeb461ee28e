"""An event's schema: the protobuf message is the source, Arrow columns are derived from it."""

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
IP_ADDRESS_MARK = {
    b"infrasight": b"ip_address"
}  # a field's metadata: other columns of 16 bytes are no addresses
OPTIONAL_MARK = {
    b"infrasight.optional": b"yes"
}  # a field's metadata: nothing is missing where nobody fills it
TIMESTAMP = pa.timestamp("ns", "UTC")
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
    """What an event of one probe is.

    Attributes:
        message: The protobuf message class; its first field is `header`, an `infrasight.v1.EventHeader`.
        ddl: The `.sql` resource that creates the table `<probe>_events`: idempotent, runs as it is.
    """

    message: type[Message]
    ddl: Path | Traversable

    @property
    def message_type(self) -> str:
        """The message's full protobuf name."""
        return str(self.message.DESCRIPTOR.full_name)

    @cached_property
    def stored(self) -> pa.Schema:
        """All columns in the order of the table: the header's, then the probe's own."""
        return pa.schema(_arrow_field(f) for f in event_fields(self.message))

    @cached_property
    def agent(self) -> pa.Schema:
        """The columns that an agent sends: all but those that the server fills."""
        return pa.schema(
            _arrow_field(f) for f in event_fields(self.message) if not set_by_server(f)
        )

    @cached_property
    def fingerprint(self) -> str:
        """Equal where names, types and order of the stored columns are equal; 16 hexadecimal digits."""
        text = "\n".join(f"{f.name} {f.type}" for f in self.stored)
        return hashlib.sha256(f"{self.message_type}\n{text}".encode()).hexdigest()[:16]

    def ddl_text(self) -> str:
        """The DDL's SQL text."""
        return self.ddl.read_text(encoding="utf-8")


def event_fields(message: type[Message]) -> list[FieldDescriptor]:
    """The fields of an event in column order: those of its header, then its own.

    Raises:
        SchemaError: The message has no header of the right type, or the same name twice.
    """
    descriptor = message.DESCRIPTOR
    first = descriptor.fields[0] if descriptor.fields else None
    if first is None or first.name != "header" or first.message_type != EventHeader.DESCRIPTOR:
        raise SchemaError(
            f"{descriptor.full_name}: the first field must be 'infrasight.v1.EventHeader header'"
        )
    fields = [*EventHeader.DESCRIPTOR.fields, *descriptor.fields[1:]]
    names = [f.name for f in fields]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SchemaError(
            f"{descriptor.full_name}: {', '.join(twice)}: the header has that column already; rename yours"
        )
    return fields


def set_by_server(field: FieldDescriptor) -> bool:
    """Whether the server fills the column, so that no agent sends it."""
    return _column(field).origin == ORIGIN_SERVER


def is_optional(field: pa.Field) -> bool:
    """Whether a column may stay empty without a word in `quality`."""
    return OPTIONAL_MARK.items() <= (field.metadata or {}).items()


def _column(field: FieldDescriptor) -> Column:
    options: Column = field.GetOptions().Extensions[column]  # type: ignore[index]  # the stubs know no extension descriptor
    return options


def _arrow_field(field: FieldDescriptor) -> pa.Field:
    options = _column(field)
    mark = (IP_ADDRESS_MARK if options.ip_address else {}) | (
        OPTIONAL_MARK if options.optional else {}
    )
    return pa.field(field.name, _arrow_type(field), nullable=False, metadata=mark or None)


def _arrow_type(field: FieldDescriptor) -> pa.DataType:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (_arrow_type(field.message_type.fields_by_name[n]) for n in ("key", "value"))
        return pa.map_(key, value)
    if (
        field.message_type is not None
        and field.message_type.full_name == "google.protobuf.Timestamp"
    ):
        item: pa.DataType = TIMESTAMP
    elif field.type in _SCALARS:
        item = _SCALARS[field.type]
    elif field.type == FieldDescriptor.TYPE_ENUM:
        item = pa.int32()
    else:
        raise SchemaError(
            f"{field.full_name}: no column type for it; use scalars, bytes, Timestamp, repeated or map of them"
        )
    if _column(field).ip_address:
        if field.type != FieldDescriptor.TYPE_BYTES:
            raise SchemaError(f"{field.full_name}: the option ip_address is for bytes")
        item = IP_ADDRESS
    if _column(field).dictionary:
        item = pa.dictionary(pa.int32(), item)
    return pa.list_(pa.field("item", item, nullable=False)) if field.is_repeated else item
