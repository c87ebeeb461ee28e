from infrasight.v1 import event_pb2 as _event_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MkdirEvent(_message.Message):
    __slots__ = ("header", "path", "dirfd", "mode")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DIRFD_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    header: _event_pb2.EventHeader
    path: bytes
    dirfd: int
    mode: int
    def __init__(self, header: _Optional[_Union[_event_pb2.EventHeader, _Mapping]] = ..., path: _Optional[bytes] = ..., dirfd: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...
