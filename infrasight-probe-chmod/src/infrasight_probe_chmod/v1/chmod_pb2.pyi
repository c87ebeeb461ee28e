from infrasight.v1 import column_pb2 as _column_pb2
from infrasight.v1 import event_pb2 as _event_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChmodEvent(_message.Message):
    __slots__ = ("header", "path", "resolved_path", "dirfd", "fd", "at_flags", "mode", "mode_text", "old_mode")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_PATH_FIELD_NUMBER: _ClassVar[int]
    DIRFD_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    AT_FLAGS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODE_TEXT_FIELD_NUMBER: _ClassVar[int]
    OLD_MODE_FIELD_NUMBER: _ClassVar[int]
    header: _event_pb2.EventHeader
    path: bytes
    resolved_path: bytes
    dirfd: int
    fd: int
    at_flags: int
    mode: int
    mode_text: bytes
    old_mode: int
    def __init__(self, header: _Optional[_Union[_event_pb2.EventHeader, _Mapping]] = ..., path: _Optional[bytes] = ..., resolved_path: _Optional[bytes] = ..., dirfd: _Optional[int] = ..., fd: _Optional[int] = ..., at_flags: _Optional[int] = ..., mode: _Optional[int] = ..., mode_text: _Optional[bytes] = ..., old_mode: _Optional[int] = ...) -> None: ...
