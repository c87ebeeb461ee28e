import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from infrasight.v1 import column_pb2 as _column_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventHeader(_message.Message):
    __slots__ = ("time", "node", "pid", "tid", "ppid", "process_key", "parent_process_key", "grandparent_process_key", "uid", "gid", "user", "group_name", "comm", "exe", "cgroup_id", "container_id", "container_name", "container_image", "pod_name", "pod_namespace", "pod_container", "tags", "return_code", "error", "via", "duration_ns", "quality", "batch_id", "cpu", "sequence", "received_time")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TIME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    PROCESS_KEY_FIELD_NUMBER: _ClassVar[int]
    PARENT_PROCESS_KEY_FIELD_NUMBER: _ClassVar[int]
    GRANDPARENT_PROCESS_KEY_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    GROUP_NAME_FIELD_NUMBER: _ClassVar[int]
    COMM_FIELD_NUMBER: _ClassVar[int]
    EXE_FIELD_NUMBER: _ClassVar[int]
    CGROUP_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_CONTAINER_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    RETURN_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_TIME_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    node: str
    pid: int
    tid: int
    ppid: int
    process_key: int
    parent_process_key: int
    grandparent_process_key: int
    uid: int
    gid: int
    user: bytes
    group_name: bytes
    comm: bytes
    exe: bytes
    cgroup_id: int
    container_id: str
    container_name: bytes
    container_image: bytes
    pod_name: bytes
    pod_namespace: bytes
    pod_container: bytes
    tags: _containers.ScalarMap[str, str]
    return_code: int
    error: str
    via: str
    duration_ns: int
    quality: _containers.RepeatedScalarFieldContainer[str]
    batch_id: str
    cpu: int
    sequence: int
    received_time: _timestamp_pb2.Timestamp
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., node: _Optional[str] = ..., pid: _Optional[int] = ..., tid: _Optional[int] = ..., ppid: _Optional[int] = ..., process_key: _Optional[int] = ..., parent_process_key: _Optional[int] = ..., grandparent_process_key: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., user: _Optional[bytes] = ..., group_name: _Optional[bytes] = ..., comm: _Optional[bytes] = ..., exe: _Optional[bytes] = ..., cgroup_id: _Optional[int] = ..., container_id: _Optional[str] = ..., container_name: _Optional[bytes] = ..., container_image: _Optional[bytes] = ..., pod_name: _Optional[bytes] = ..., pod_namespace: _Optional[bytes] = ..., pod_container: _Optional[bytes] = ..., tags: _Optional[_Mapping[str, str]] = ..., return_code: _Optional[int] = ..., error: _Optional[str] = ..., via: _Optional[str] = ..., duration_ns: _Optional[int] = ..., quality: _Optional[_Iterable[str]] = ..., batch_id: _Optional[str] = ..., cpu: _Optional[int] = ..., sequence: _Optional[int] = ..., received_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
