from infrasight.v1 import column_pb2 as _column_pb2
from infrasight.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExecveEvent(_message.Message):
    __slots__ = ("header", "filename", "argv", "argv_length", "cwd", "parent_comm", "dirfd", "at_flags")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ARGV_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    PARENT_COMM_FIELD_NUMBER: _ClassVar[int]
    DIRFD_FIELD_NUMBER: _ClassVar[int]
    AT_FLAGS_FIELD_NUMBER: _ClassVar[int]
    header: _event_pb2.EventHeader
    filename: bytes
    argv: _containers.RepeatedScalarFieldContainer[bytes]
    argv_length: int
    cwd: bytes
    parent_comm: bytes
    dirfd: int
    at_flags: int
    def __init__(self, header: _Optional[_Union[_event_pb2.EventHeader, _Mapping]] = ..., filename: _Optional[bytes] = ..., argv: _Optional[_Iterable[bytes]] = ..., argv_length: _Optional[int] = ..., cwd: _Optional[bytes] = ..., parent_comm: _Optional[bytes] = ..., dirfd: _Optional[int] = ..., at_flags: _Optional[int] = ...) -> None: ...
