from infrasight.v1 import column_pb2 as _column_pb2
from infrasight.v1 import event_pb2 as _event_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConnectEvent(_message.Message):
    __slots__ = ("header", "stage", "in_progress", "connection_id", "family", "family_name", "socket_type", "type_name", "protocol", "protocol_name", "local_address", "local_port", "remote_address", "remote_port", "remote_name", "unix_path", "unix_client_path", "fd")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
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
    FD_FIELD_NUMBER: _ClassVar[int]
    header: _event_pb2.EventHeader
    stage: bytes
    in_progress: bool
    connection_id: int
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
    fd: int
    def __init__(self, header: _Optional[_Union[_event_pb2.EventHeader, _Mapping]] = ..., stage: _Optional[bytes] = ..., in_progress: _Optional[bool] = ..., connection_id: _Optional[int] = ..., family: _Optional[int] = ..., family_name: _Optional[bytes] = ..., socket_type: _Optional[int] = ..., type_name: _Optional[bytes] = ..., protocol: _Optional[int] = ..., protocol_name: _Optional[bytes] = ..., local_address: _Optional[bytes] = ..., local_port: _Optional[int] = ..., remote_address: _Optional[bytes] = ..., remote_port: _Optional[int] = ..., remote_name: _Optional[bytes] = ..., unix_path: _Optional[bytes] = ..., unix_client_path: _Optional[bytes] = ..., fd: _Optional[int] = ...) -> None: ...
