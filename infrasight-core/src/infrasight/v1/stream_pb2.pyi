import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RejectionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECTION_REASON_UNSPECIFIED: _ClassVar[RejectionReason]
    REJECTION_REASON_UNKNOWN_PROBE: _ClassVar[RejectionReason]
    REJECTION_REASON_SCHEMA_MISMATCH: _ClassVar[RejectionReason]
    REJECTION_REASON_MALFORMED: _ClassVar[RejectionReason]
    REJECTION_REASON_TOO_LARGE: _ClassVar[RejectionReason]
    REJECTION_REASON_STORE_ERROR: _ClassVar[RejectionReason]
    REJECTION_REASON_CONFLICT: _ClassVar[RejectionReason]
    REJECTION_REASON_DROPPED: _ClassVar[RejectionReason]
REJECTION_REASON_UNSPECIFIED: RejectionReason
REJECTION_REASON_UNKNOWN_PROBE: RejectionReason
REJECTION_REASON_SCHEMA_MISMATCH: RejectionReason
REJECTION_REASON_MALFORMED: RejectionReason
REJECTION_REASON_TOO_LARGE: RejectionReason
REJECTION_REASON_STORE_ERROR: RejectionReason
REJECTION_REASON_CONFLICT: RejectionReason
REJECTION_REASON_DROPPED: RejectionReason

class StreamRequest(_message.Message):
    __slots__ = ("hello", "batch")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    batch: Batch
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("welcome", "acknowledgement", "rejection")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    acknowledgement: Acknowledgement
    rejection: Rejection
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., rejection: _Optional[_Union[Rejection, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node", "boot_id", "agent_version", "probes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    node: str
    boot_id: str
    agent_version: str
    probes: _containers.RepeatedCompositeFieldContainer[ProbeSchema]
    def __init__(self, node: _Optional[str] = ..., boot_id: _Optional[str] = ..., agent_version: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[ProbeSchema, _Mapping]]] = ...) -> None: ...

class ProbeSchema(_message.Message):
    __slots__ = ("probe", "message_type", "fingerprint", "arrow_schema")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    probe: str
    message_type: str
    fingerprint: str
    arrow_schema: bytes
    def __init__(self, probe: _Optional[str] = ..., message_type: _Optional[str] = ..., fingerprint: _Optional[str] = ..., arrow_schema: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("server_version", "probes", "max_batch_bytes", "store_folder")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    probes: _containers.RepeatedCompositeFieldContainer[ProbeAnswer]
    max_batch_bytes: int
    store_folder: bytes
    def __init__(self, server_version: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[ProbeAnswer, _Mapping]]] = ..., max_batch_bytes: _Optional[int] = ..., store_folder: _Optional[bytes] = ...) -> None: ...

class ProbeAnswer(_message.Message):
    __slots__ = ("probe", "accepted", "reason")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    probe: str
    accepted: bool
    reason: str
    def __init__(self, probe: _Optional[str] = ..., accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("batch_id", "probe", "message_type", "fingerprint", "rows", "arrow", "messages", "retry", "account", "containers", "dropped")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    probe: str
    message_type: str
    fingerprint: str
    rows: int
    arrow: bytes
    messages: Messages
    retry: bool
    account: Account
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    dropped: bool
    def __init__(self, batch_id: _Optional[str] = ..., probe: _Optional[str] = ..., message_type: _Optional[str] = ..., fingerprint: _Optional[str] = ..., rows: _Optional[int] = ..., arrow: _Optional[bytes] = ..., messages: _Optional[_Union[Messages, _Mapping]] = ..., retry: _Optional[bool] = ..., account: _Optional[_Union[Account, _Mapping]] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ..., dropped: _Optional[bool] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("container_id", "name", "image", "pod_name", "pod_namespace", "pod_container", "labels", "labels_cut", "runtime", "time")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_CONTAINER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABELS_CUT_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    name: bytes
    image: bytes
    pod_name: bytes
    pod_namespace: bytes
    pod_container: bytes
    labels: _containers.ScalarMap[str, str]
    labels_cut: bool
    runtime: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, container_id: _Optional[str] = ..., name: _Optional[bytes] = ..., image: _Optional[bytes] = ..., pod_name: _Optional[bytes] = ..., pod_namespace: _Optional[bytes] = ..., pod_container: _Optional[bytes] = ..., labels: _Optional[_Mapping[str, str]] = ..., labels_cut: _Optional[bool] = ..., runtime: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("run", "window", "number", "ended", "seen", "filtered", "block_full", "heap_full", "submitted", "read", "waiting", "in_progress", "decode_failed", "outbox_full", "entries_full", "skipped", "untraced")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    FILTERED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FULL_FIELD_NUMBER: _ClassVar[int]
    HEAP_FULL_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DECODE_FAILED_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_FULL_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FULL_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    UNTRACED_FIELD_NUMBER: _ClassVar[int]
    run: str
    window: int
    number: int
    ended: bool
    seen: int
    filtered: int
    block_full: int
    heap_full: int
    submitted: int
    read: int
    waiting: int
    in_progress: int
    decode_failed: int
    outbox_full: int
    entries_full: int
    skipped: int
    untraced: int
    def __init__(self, run: _Optional[str] = ..., window: _Optional[int] = ..., number: _Optional[int] = ..., ended: _Optional[bool] = ..., seen: _Optional[int] = ..., filtered: _Optional[int] = ..., block_full: _Optional[int] = ..., heap_full: _Optional[int] = ..., submitted: _Optional[int] = ..., read: _Optional[int] = ..., waiting: _Optional[int] = ..., in_progress: _Optional[int] = ..., decode_failed: _Optional[int] = ..., outbox_full: _Optional[int] = ..., entries_full: _Optional[int] = ..., skipped: _Optional[int] = ..., untraced: _Optional[int] = ...) -> None: ...

class Messages(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, messages: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("batch_id",)
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    def __init__(self, batch_id: _Optional[str] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("batch_id", "reason", "detail")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    reason: RejectionReason
    detail: str
    def __init__(self, batch_id: _Optional[str] = ..., reason: _Optional[_Union[RejectionReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("sql",)
    SQL_FIELD_NUMBER: _ClassVar[int]
    sql: str
    def __init__(self, sql: _Optional[str] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("arrow",)
    ARROW_FIELD_NUMBER: _ClassVar[int]
    arrow: bytes
    def __init__(self, arrow: _Optional[bytes] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("probes",)
    PROBES_FIELD_NUMBER: _ClassVar[int]
    probes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, probes: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("probe", "arrow", "dropped")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    ARROW_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    probe: str
    arrow: bytes
    dropped: int
    def __init__(self, probe: _Optional[str] = ..., arrow: _Optional[bytes] = ..., dropped: _Optional[int] = ...) -> None: ...
