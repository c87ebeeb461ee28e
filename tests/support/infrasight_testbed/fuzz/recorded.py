"""Messages as real agents and readers send them, from which mutations are made."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
from google.protobuf.message import Message
from infrasight.v1 import control_pb2
from infrasight.v1.stream_pb2 import Account, Batch, Container, Hello, Messages, ProbeSchema
from infrasight_core.net import ipc, zstd_frame
from infrasight_core.plugin.arrays import empty_values
from infrasight_core.plugin.schema import EventSchema, event_fields, set_by_server

_ROWS: Final = (1, 7, 60)
_COMPRESSED_ROWS: Final = 900
QUERIES: Final = (
    "SELECT time, node, comm, argv FROM execve_events ORDER BY time DESC LIMIT 5",
    "SELECT node, count() AS n FROM execve_events GROUP BY node HAVING n > 1 ORDER BY n",
    "SELECT container.name, labels['app'] FROM open_events WHERE path LIKE '/etc/%' LIMIT 3",
    "WITH 5 AS n SELECT arrayMap(x -> x + n, [1, 2, 3]) AS a",
    "SELECT * FROM accounting WHERE difference != 0",
    "SELECT toStartOfMinute(time) AS t, uniq(pid) FROM connect_events GROUP BY t ORDER BY t",
    "SELECT a.pid FROM execve_events AS a JOIN open_events AS b ON a.pid = b.pid LIMIT 1",
    "SELECT quantile(0.9)(duration_ns), max(time) FROM chmod_events PREWHERE pid > 0",
)


def hello(node: str, schemas: Mapping[str, EventSchema]) -> Hello:
    """Returns the hello of an agent with every probe."""
    probes = [
        ProbeSchema(probe=name, message_type=schema.message_type, fingerprint=schema.fingerprint)
        for name, schema in schemas.items()
    ]
    return Hello(node=node, boot_id="8f3c", agent_version="1.0", probes=probes)


def batches(schemas: Mapping[str, EventSchema]) -> Iterator[Batch]:
    """Yields batches of every probe: as Arrow, plain, compressed and framed, and as messages."""
    now = time.time_ns()
    window = now // (60 * 10**9)
    for probe, schema in schemas.items():
        for rows in (*_ROWS, _COMPRESSED_ROWS):
            sent = event_batch(probe, schema, rows, now)
            yield sent
            if rows != _COMPRESSED_ROWS:
                framed = zstd_frame.compress(pa.py_buffer(sent.arrow))
                yield _batch(probe, schema, rows, window, arrow=framed)
        bodies = [_message(schema, number, now) for number in range(5)]
        yield _batch(probe, schema, len(bodies), window, messages=Messages(messages=bodies))
        account = _account(window, 3)
        yield Batch(batch_id=f"5f-{window}-account-3", probe=probe, account=account)
    yield Batch(batch_id=f"containers-{window}-1", containers=list(_containers(now)))


def event_batch(probe: str, schema: EventSchema, rows: int, now: int) -> Batch:
    """Returns a batch of events with an account, as Arrow; the latest event is of `now`, in ns."""
    window = now // (60 * 10**9)
    return _batch(probe, schema, rows, window, arrow=_arrow(schema, rows, now))


def reports() -> Iterator[control_pb2.Report]:
    """Yields reports of an agent to an operator."""
    packages = [control_pb2.Package(name="infrasight-probe-open", version="1.0")]
    yield control_pb2.Report(node="node-1", pod="agent-x", agent_version="1.0")
    yield control_pb2.Report(
        node="node-1",
        pod="agent-x",
        agent_version="1.0",
        digest="5f" * 16,
        running=["execve", "open"],
        installed=["execve", "open", "chmod"],
        failures=[control_pb2.Failure(name="chmod", reason="no such tracepoint")],
        not_streaming="connection refused",
        packages=packages,
    )


def _batch(probe: str, schema: EventSchema, rows: int, window: int, **body: Any) -> Batch:
    return Batch(
        batch_id=f"5f-{window}-0-{rows}",
        probe=probe,
        message_type=schema.message_type,
        fingerprint=schema.fingerprint,
        rows=rows,
        account=_account(window, rows),
        **body,
    )


def _account(window: int, rows: int) -> Account:
    return Account(run="5f", window=window, number=1, seen=rows, submitted=rows, read=rows)


def _containers(now: int) -> Iterator[Container]:
    for number in range(3):
        container = Container(
            container_id=f"{number:02x}" * 32,
            name=b"web",
            image=b"nginx:1",
            pod_name=b"web-1",
            labels={"app": "web", "tier": "front"},
            runtime="cri",
        )
        container.time.FromNanoseconds(now)
        yield container


def _arrow(schema: EventSchema, rows: int, now: int) -> bytes:
    columns = [_column(field, rows, now) for field in schema.agent]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema.agent)
    return ipc.to_bytes(batch)


def _column(field: pa.Field, rows: int, now: int) -> pa.Array:
    if pa.types.is_timestamp(field.type):
        return pa.array([now - row * 1_000 for row in range(rows)]).cast(field.type)
    if pa.types.is_integer(field.type):
        return pa.array([row % 100 for row in range(rows)]).cast(field.type)
    if pa.types.is_dictionary(field.type):
        values = pa.array([b"sh", b"cat", b"make"]).cast(field.type.value_type)
        indices = pa.array([row % 3 for row in range(rows)], field.type.index_type)
        return pa.DictionaryArray.from_arrays(indices, values)
    if pa.types.is_binary(field.type):
        return pa.array([b"/usr/lib/%d" % row for row in range(rows)], field.type)
    if pa.types.is_list(field.type) and pa.types.is_binary(field.type.value_type):
        return pa.array([[b"ls", b"-l", b"%d" % row] for row in range(rows)], field.type)
    return empty_values(rows, field.type)


def _message(schema: EventSchema, number: int, now: int) -> bytes:
    message = schema.message()
    header: Any = message.header  # type: ignore[attr-defined]
    header.time.FromNanoseconds(now)
    header.pid = number
    header.comm = b"sh"
    for field in event_fields(schema.message):
        is_own = field.containing_type is schema.message.DESCRIPTOR
        holder: Message = message if is_own else header
        is_text = field.type == field.TYPE_BYTES and not field.is_repeated
        if is_text and not set_by_server(field) and "address" not in field.name:
            setattr(holder, field.name, b"/bin/sh")
    return message.SerializeToString()
