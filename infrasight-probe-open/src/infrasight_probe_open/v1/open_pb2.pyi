from infrasight.v1 import column_pb2 as _column_pb2
from infrasight.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenEvent(_message.Message):
    __slots__ = ("header", "path", "resolved_path", "deleted", "dirfd", "flags", "flag_names", "mode", "resolve", "fd")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_PATH_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    DIRFD_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    FLAG_NAMES_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    header: _event_pb2.EventHeader
    path: bytes
    resolved_path: bytes
    deleted: bool
    dirfd: int
    flags: int
    flag_names: _containers.RepeatedScalarFieldContainer[bytes]
    mode: int
    resolve: int
    fd: int
    def __init__(self, header: _Optional[_Union[_event_pb2.EventHeader, _Mapping]] = ..., path: _Optional[bytes] = ..., resolved_path: _Optional[bytes] = ..., deleted: _Optional[bool] = ..., dirfd: _Optional[int] = ..., flags: _Optional[int] = ..., flag_names: _Optional[_Iterable[bytes]] = ..., mode: _Optional[int] = ..., resolve: _Optional[int] = ..., fd: _Optional[int] = ...) -> None: ...
