"""A batch from the wire is what it declares to be, or is rejected with a reason."""

from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from infrasight.v1.event_pb2 import EventHeader
from infrasight.v1.stream_pb2 import Batch, Messages, Rejection, RejectionReason
from infrasight_core.net import ipc
from infrasight_probe_execve.v1.execve_pb2 import ExecveEvent
from infrasight_server.ingest.validation import measure_rows, validate_head
from infrasight_testbed.execve_batches import LIMITS, SCHEMA, TIME, batch, table, validated

LIMIT = LIMITS.max_batch_bytes
GOOD = ipc.to_bytes(*table(3).to_batches())


def validate(sent: Batch) -> pa.RecordBatch | Rejection:
    """Returns a batch's rows, or why it is rejected, after the same checks as a server's."""
    rejection = validate_head(sent, {"execve"}, LIMITS)
    if rejection is not None:
        return rejection
    size = measure_rows(sent, LIMITS)
    return size if isinstance(size, Rejection) else validated(sent)


def with_nulls(name: str, values: pa.Array) -> pa.Table:
    """Returns rows with nulls in a column although their schema excludes nulls."""
    rows = table(len(values))
    columns = [values if f.name == name else rows[f.name] for f in SCHEMA.agent]
    return pa.Table.from_arrays(columns, schema=SCHEMA.agent)


def test_valid_rows_pass_unchanged() -> None:
    """The table has the columns that the agent sent."""
    sent = table(1000)
    rows = validate(batch("b", sent))
    assert isinstance(rows, pa.RecordBatch)
    assert pa.Table.from_batches([rows]).equals(sent)


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"arrow": b""}, "MALFORMED", "not an Arrow IPC stream"),
        ({"arrow": b"\x00" * 100}, "MALFORMED", "Arrow IPC stream"),
        ({"arrow": GOOD[: len(GOOD) // 2]}, "MALFORMED", "not an Arrow IPC stream"),
        ({"arrow": b"\xff" * LIMIT}, "TOO_LARGE", "exceed the limit of 1048576"),
        ({"rows": 4}, "MALFORMED", "it declares 4 rows and contains 3"),
        ({"batch_id": ""}, "MALFORMED", "no batch_id"),
        (
            {"fingerprint": "0123", "messages": Messages(), "rows": 0},
            "SCHEMA_MISMATCH",
            f"fingerprint '0123', the server's '{SCHEMA.fingerprint}'",
        ),
        ({"message_type": "a.B"}, "SCHEMA_MISMATCH", "the agent's message is 'a.B'"),
        (
            {"arrow": ipc.to_bytes(*table(3).drop_columns(["pid"]).to_batches())},
            "MALFORMED",
            "missing ['pid']",
        ),
        (
            {"arrow": ipc.to_bytes(*table(3).append_column("x", [[1, 2, 3]]).to_batches())},
            "MALFORMED",
            "unknown ['x']",
        ),
        (
            {
                "arrow": ipc.to_bytes(
                    *table(3).set_column(1, "pid", [pa.array([1, 2, 3])]).to_batches()
                )
            },
            "MALFORMED",
            "pid is pyarrow.Field<pid: int64>, not pyarrow.Field<pid: uint32 not null>",
        ),
        (
            {
                "arrow": ipc.to_bytes(
                    *table(3).select(["pid", "time", *SCHEMA.agent.names[2:]]).to_batches()
                )
            },
            "MALFORMED",
            "in another order",
        ),
        (
            {"messages": Messages(messages=[b"\xff\xff"]), "rows": 1},
            "MALFORMED",
            "a message is not a infrasight_probe_execve",
        ),
    ],
)
def test_invalid_batch_is_rejected(fields: dict[str, Any], reason: str, message: str) -> None:
    """The rejection has a reason and a line that names the fault."""
    rejection = validate(batch(**{"batch_id": "b", "content": table(3), **fields}))
    assert isinstance(rejection, Rejection)
    assert RejectionReason.Name(rejection.reason) == f"REJECTION_REASON_{reason}"
    assert message in rejection.detail


def test_batch_without_a_body_is_rejected() -> None:
    """A missing body differs from a body without rows."""
    empty = batch("b", table(1))
    empty.ClearField("body")
    assert "it has no body" in validate(empty).detail


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pid", pa.array([1, None], pa.uint32())),
        (
            "comm",
            pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array([b"a", None])),
        ),
        ("argv", pa.array([[b"a"], [None]], pa.list_(pa.binary())).cast(pa.list_(pa.binary()))),
    ],
)
def test_nulls_are_rejected(name: str, values: pa.Array) -> None:
    """Nulls in values, dictionaries and list items are validated, whatever the schema declares."""
    if name == "argv":
        values = pa.Array.from_buffers(
            SCHEMA.agent.field("argv").type, 2, values.buffers()[:2], children=[values.values]
        )
    rejection = validate(batch("b", with_nulls(name, values)))
    assert f"column {name} has nulls" in rejection.detail


def test_index_outside_its_dictionary_is_rejected() -> None:
    """Arrow bytes that would make a reader access other memory are malformed."""
    outside = pa.DictionaryArray.from_arrays(
        pa.array([0, 7], pa.int32()), pa.array([b"a"]), safe=False
    )
    rejection = validate(batch("b", with_nulls("comm", outside)))
    assert RejectionReason.Name(rejection.reason) == "REJECTION_REASON_MALFORMED"


def test_equal_values_of_a_dictionary_become_one() -> None:
    """ClickHouse rejects an insert with such a dictionary, with it the batches of other agents."""
    twice = pa.DictionaryArray.from_arrays(
        pa.array([0, 2, 1], pa.int32()), pa.array([b"a", b"a", b"b"])
    )
    rows = validate(batch("b", with_nulls("comm", twice)))
    assert isinstance(rows, pa.RecordBatch)
    assert rows["comm"].dictionary.to_pylist() == [b"a", b"b"]
    assert rows["comm"].to_pylist() == [b"a", b"b", b"a"]


def test_protobuf_messages_become_the_same_columns() -> None:
    """Every field of a client's messages ends up in its column."""
    header = EventHeader(
        time=Timestamp(seconds=TIME // 10**9, nanos=TIME % 10**9),
        node="not believed",
        pid=7,
        comm=b"\xff",
        error="ENOENT",
        return_code=-2,
        quality=["argv_cut"],
    )
    events = [
        ExecveEvent(header=header, filename=b"/bin/\xfe", argv=[b"", b"\xff\n"], dirfd=-100),
        ExecveEvent(header=EventHeader(time=Timestamp(seconds=TIME // 10**9))),
    ]
    messages = Messages(messages=[event.SerializeToString() for event in events])
    rows = validate(batch("b", table(2), messages=messages))
    assert isinstance(rows, pa.RecordBatch)
    assert rows.schema.equals(SCHEMA.agent)
    first, second = rows.to_pylist()
    sent = {"time", "pid", "comm", "error", "return_code", "quality", "filename", "argv", "dirfd"}
    assert rows["time"].cast(pa.int64()).to_pylist() == [TIME, TIME // 10**9 * 10**9]
    assert {k: first[k] for k in sent - {"time"}} == {
        "pid": 7,
        "comm": b"\xff",
        "error": "ENOENT",
        "return_code": -2,
        "quality": ["argv_cut"],
        "filename": b"/bin/\xfe",
        "argv": [b"", b"\xff\n"],
        "dirfd": -100,
    }
    assert not any(second[name] for name in rows.schema.names if name != "time")


def test_time_out_of_range_is_rejected() -> None:
    """A timestamp beyond 64 bits of nanoseconds makes the batch malformed."""
    event = ExecveEvent(header=EventHeader(time=Timestamp(seconds=2**40)))
    rejection = validate(
        batch("b", table(1), messages=Messages(messages=[event.SerializeToString()]))
    )
    assert "column time" in rejection.detail
