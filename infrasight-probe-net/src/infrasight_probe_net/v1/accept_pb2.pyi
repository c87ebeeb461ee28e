from infrasight.v1 import column_pb2 as _column_pb2
from infrasight.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AcceptEvent(_message.Message):
    __slots__ = ("header", "family", "family_name", "socket_type", "type_name", "protocol", "protocol_name", "local_address", "local_port", "remote_address", "remote_port", "remote_name", "unix_path", "unix_client_path", "listen_fd", "fd", "flags", "flag_names")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    FAMILY_NAME_FIELD_NUMBER: _ClassVar[int]
    SOCKET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_NAME_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PORT_FIELD_NUMBER: _ClassVar[int]
    REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_PORT_FIELD_NUMBER: _ClassVar[int]
    REMOTE_NAME_FIELD_NUMBER: _ClassVar[int]
    UNIX_PATH_FIELD_NUMBER: _ClassVar[int]
    UNIX_CLIENT_PATH_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FD_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    FLAG_NAMES_FIELD_NUMBER: _ClassVar[int]
    header: _event_pb2.EventHeader
    family: int
    family_name: bytes
    socket_type: int
    type_name: bytes
    protocol: int
    protocol_name: bytes
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    remote_name: bytes
    unix_path: bytes
    unix_client_path: bytes
    listen_fd: int
    fd: int
    flags: int
    flag_names: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, header: _Optional[_Union[_event_pb2.EventHeader, _Mapping]] = ..., family: _Optional[int] = ..., family_name: _Optional[bytes] = ..., socket_type: _Optional[int] = ..., type_name: _Optional[bytes] = ..., protocol: _Optional[int] = ..., protocol_name: _Optional[bytes] = ..., local_address: _Optional[bytes] = ..., local_port: _Optional[int] = ..., remote_address: _Optional[bytes] = ..., remote_port: _Optional[int] = ..., remote_name: _Optional[bytes] = ..., unix_path: _Optional[bytes] = ..., unix_client_path: _Optional[bytes] = ..., listen_fd: _Optional[int] = ..., fd: _Optional[int] = ..., flags: _Optional[int] = ..., flag_names: _Optional[_Iterable[bytes]] = ...) -> None: ...
