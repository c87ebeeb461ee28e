from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_AGENT: _ClassVar[Origin]
    ORIGIN_SERVER: _ClassVar[Origin]
ORIGIN_UNSPECIFIED: Origin
ORIGIN_AGENT: Origin
ORIGIN_SERVER: Origin
COLUMN_FIELD_NUMBER: _ClassVar[int]
column: _descriptor.FieldDescriptor

class Column(_message.Message):
    __slots__ = ("dictionary", "origin", "ip_address", "optional")
    DICTIONARY_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    IP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    dictionary: bool
    origin: Origin
    ip_address: bool
    optional: bool
    def __init__(self, dictionary: _Optional[bool] = ..., origin: _Optional[_Union[Origin, str]] = ..., ip_address: _Optional[bool] = ..., optional: _Optional[bool] = ...) -> None: ...
