"""What arrives is bounded: requests, values, times, accounts, memory, streams."""

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve
from infrasight.v1.stream_pb2 import (
    Account,
    Batch,
    Container,
    Hello,
    Messages,
    Rejection,
    RejectionReason,
    StreamRequest,
)
from infrasight_core.errors import LimitError, SchemaError, TransportError
from infrasight_core.net import ipc, zstd_frame
from infrasight_core.net.identity import Identity, Role
from infrasight_server import limits, metrics
from infrasight_server.ingest import agent_session
from infrasight_server.ingest.agent_session import AgentSession
from infrasight_server.ingest.arrow_size import measure
from infrasight_server.ingest.memory_budget import MemoryBudget
from infrasight_server.ingest.requests import InvalidRequest, parse_request
from infrasight_server.ingest.stream_limits import StreamLimits
from infrasight_server.ingest.validation import (
    measure_rows,
    validate_containers,
    validate_head,
)
from infrasight_server.task_supervisor import TaskSupervisor
from infrasight_testbed.execve_batches import (
    LIMITS,
    SCHEMA,
    TIME,
    WINDOW,
    batch,
    hello,
    table,
    validated,
)

NAMES = pa.dictionary(pa.int32(), pa.binary())
COUNTED = metrics.TASK_FAILURES.labels("limited")


def names(*values: bytes) -> pa.Array:
    """Returns a row with the first of some values; the others are not used."""
    return pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(values))


def times(*moments: int) -> pa.Array:
    """Returns a column of times."""
    return pa.array(moments).cast(SCHEMA.agent.field("time").type)


def account(**fields: Any) -> Account:
    """Returns an account of a possible window."""
    possible = Account(run="1", window=WINDOW, number=1)
    possible.MergeFrom(Account(**fields))
    return possible


def days(number: int) -> pa.Array:
    """Returns an event of each of the last days."""
    return times(*(TIME - day * 86_400 * 10**9 for day in range(number)))


def reason_of(sent: Batch) -> str:
    """Returns why a batch is rejected; "" if it is accepted."""
    outcome: Rejection | pa.RecordBatch | int | None
    if sent.containers:
        outcome = validate_containers(sent, LIMITS)
    else:
        outcome = validate_head(sent, {"execve"}, LIMITS)
        if outcome is None and sent.WhichOneof("body"):
            outcome = measure_rows(sent, LIMITS)
            if not isinstance(outcome, Rejection):
                outcome = validated(sent)
    if not isinstance(outcome, Rejection):
        return ""
    assert len(outcome.detail) <= limits.MAX_DETAIL_LENGTH
    return RejectionReason.Name(outcome.reason).removeprefix("REJECTION_REASON_")


def container(seconds: int) -> Container:
    """Returns an update of a time."""
    update = Container(container_id="c", runtime="cri")
    update.time.FromSeconds(seconds)
    return update


@pytest.mark.parametrize(
    ("at_bound", "beyond"),
    [
        (batch("b" * 256, table(1)), batch("b" * 257, table(1))),
        (batch("b", table(1), message_type=SCHEMA.message_type), batch("b", table(1), probe="")),
        (batch("a.b_c:d@e/f+g-1", table(1)), batch("b c", table(1))),
        (batch("b", table(1), account=account()), batch("b", table(1), account=account(run="a b"))),
        (
            batch("b", table(1), account=account(read=limits.MAX_COUNT)),
            batch("b", table(1), account=account(read=limits.MAX_COUNT + 1)),
        ),
        (
            batch("b", table(1), account=account(waiting=-limits.MAX_COUNT)),
            batch("b", table(1), account=account(waiting=-limits.MAX_COUNT - 1)),
        ),
        (
            batch("b", table(1), account=account(window=WINDOW - 360 * 1440)),
            batch("b", table(1), account=account(window=WINDOW - 370 * 1440)),
        ),
        (
            batch("b", table(1), account=account(window=WINDOW + 1440)),
            batch("b", table(1), account=account(window=WINDOW + 3 * 1440)),
        ),
        (
            batch("b", table(8, time=days(8))),
            batch("b", table(9, time=days(9))),
        ),
        (batch("b", table(1, time=times(TIME))), batch("b", table(1, time=times(0)))),
        (
            batch("b", table(1, comm=names(b"a" * 4096))),
            batch("b", table(1, comm=names(b"a" * 4097))),
        ),
        (
            batch("b", table(1, comm=names(*(b"%d" % n for n in range(1024))))),
            batch("b", table(1, comm=names(*(b"%d" % n for n in range(1025))))),
        ),
        (
            batch("b", table(1, exe=pa.array([b"a" * (1 << 20)]))),
            batch("b", table(1, exe=pa.array([b"a" * ((1 << 20) + 1)]))),
        ),
        (
            Batch(batch_id="b", containers=[container(TIME // 10**9 + 86_400)]),
            Batch(batch_id="b", containers=[container(TIME // 10**9 + 3 * 86_400)]),
        ),
    ],
    ids=[
        "length_of_an_id",
        "probe",
        "letters_of_an_id",
        "letters_of_a_run",
        "count",
        "negative_count",
        "old_window",
        "future_window",
        "days",
        "time",
        "length_of_a_name",
        "names",
        "length_of_a_path",
        "time_of_a_container",
    ],
)
def test_batch_beyond_a_bound_is_rejected(at_bound: Batch, beyond: Batch) -> None:
    """The largest allowed value is accepted; a greater one makes the batch malformed."""
    assert reason_of(at_bound) == ""
    assert reason_of(beyond) == "MALFORMED"


def test_account_of_an_unknown_probe_is_rejected() -> None:
    """An account alone needs a probe of the server."""
    alone = Batch(batch_id="b", probe="execve", account=account())
    assert reason_of(alone) == ""
    alone.probe = "made-up"
    assert reason_of(alone) == "UNKNOWN_PROBE"


def test_declared_rows_are_bounded() -> None:
    """A million rows are declared at most, and as many as there are."""
    assert reason_of(batch("b", table(1), rows=limits.MAX_ROWS + 1)) == "TOO_LARGE"
    assert reason_of(batch("b", table(1), rows=limits.MAX_ROWS)) == "MALFORMED"


def test_measured_size_is_the_size_in_memory() -> None:
    """Plain and compressed streams measure as what they become, without being decoded."""
    for rows in (1, 100, 20_000):
        content = table(rows).combine_chunks()
        stream = ipc.to_bytes(*content.to_batches())
        size = measure(stream, 1 << 40)
        assert size.rows == rows
        assert content.nbytes <= size.bytes <= content.nbytes + 1_000
        with pytest.raises(SchemaError, match="after decompression"):
            measure(stream, content.nbytes - 1)


def framed(stream: bytes) -> bytes:
    """A stream in a zstd frame."""
    return zstd_frame.compress(pa.py_buffer(stream))


@pytest.mark.parametrize("rows", [1, 100, 20_000])
def test_batch_in_a_frame_is_accepted(rows: int) -> None:
    """The agent's form: its memory is known before it is decompressed, and its rows come out."""
    content = table(rows).combine_chunks()
    frame = ipc.to_frame(*content.to_batches())
    sent = batch("b", content, arrow=frame)
    needed = measure_rows(sent, LIMITS)
    assert isinstance(needed, int)
    assert content.nbytes <= needed <= content.nbytes + 16 * rows + 20_000
    assert ipc.from_frame(frame).equals(content)
    assert reason_of(sent) == ""


def test_frame_larger_than_the_bound_is_not_decompressed() -> None:
    """What it declares is enough to reject it."""
    frame = framed(bytes(64 << 20))
    assert len(frame) < 10_000
    bound = evolve(LIMITS, max_decoded_bytes=1 << 20)
    outcome = measure_rows(batch("b", table(1), arrow=frame), bound)
    assert isinstance(outcome, Rejection)
    assert "after decompression" in outcome.detail


@pytest.mark.parametrize("declared", [0, 1, 255, 256, 65_791, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_frame_that_declares_another_size_is_rejected(declared: int) -> None:
    """No memory is used that was not filled, or more than was reserved."""
    stream = ipc.to_bytes(*table(100).to_batches())
    body = framed(stream)
    header = body.index(zstd_header(len(stream)))
    forged = body[:header] + zstd_header(declared) + body[header + len(zstd_header(len(stream))) :]
    assert reason_of(batch("b", table(100), arrow=forged)) == "MALFORMED"


def zstd_header(size: int) -> bytes:
    """The descriptor and the size in a frame of one segment (RFC 8878, 3.1.1.1)."""
    if size < 256:
        return bytes([0x20, size])
    if size < 65_792:
        return b"\x60" + (size - 256).to_bytes(2, "little")
    if size < 1 << 32:
        return b"\xa0" + size.to_bytes(4, "little")
    return b"\xe0" + size.to_bytes(8, "little")


def test_frame_with_compressed_buffers_is_rejected() -> None:
    """Memory is reserved for the frame's content; what is in it must not grow once more."""
    stream = ipc.to_bytes(*table(20_000).combine_chunks().to_batches())
    assert reason_of(batch("b", table(20_000), arrow=framed(stream))) == "MALFORMED"


@pytest.mark.parametrize(
    "frame",
    [
        b"\x28\xb5\x2f\xfd",
        b"\x28\xb5\x2f\xfd\x00",
        b"\x28\xb5\x2f\xfd\xe0\x01",
        b"\x28\xb5\x2f\xfd\x20\x05hello",
    ],
    ids=["magic", "no-size", "cut-size", "no-block"],
)
def test_bytes_that_only_begin_like_a_frame_are_rejected(frame: bytes) -> None:
    """Cut headers, undeclared sizes and content that is no block."""
    assert reason_of(batch("b", table(1), arrow=frame)) == "MALFORMED"


def test_damaged_frames_are_rejected_or_decoded() -> None:
    """Whatever byte of a frame is another one: it is rejected, or its rows are valid."""
    frame = ipc.to_frame(*table(3).combine_chunks().to_batches())
    for position in range(len(frame)):
        for value in (0, 0xFF, frame[position] ^ 0x10):
            damaged = bytearray(frame)
            damaged[position] = value
            assert reason_of(batch("b", table(3), arrow=bytes(damaged))) in ("", "MALFORMED")


def test_frame_with_a_second_one_behind_it_is_rejected() -> None:
    """A frame's size says nothing about what follows it."""
    frame = ipc.to_frame(*table(1).to_batches())
    assert reason_of(batch("b", table(1), arrow=frame + framed(bytes(1 << 20)))) == "MALFORMED"


@pytest.mark.parametrize("size", [-2, -(1 << 63), (1 << 63) - 1, 1 << 40])
def test_claimed_size_of_a_buffer_is_bounded(size: int) -> None:
    """Negative and enormous sizes before a zstd frame are rejected."""
    stream = bytearray(ipc.to_bytes(*table(20_000).combine_chunks().to_batches()))
    magic = stream.index(b"\x28\xb5\x2f\xfd")
    stream[magic - 8 : magic] = struct.pack("<q", size)
    with pytest.raises(SchemaError):
        measure(bytes(stream), 1 << 30)


def test_damaged_streams_are_measured_or_rejected() -> None:
    """Whatever byte of a stream is another one, it has a size or is no IPC stream."""
    stream = ipc.to_bytes(*table(1).to_batches())
    for position in range(len(stream)):
        for value in (0, 0xFF, stream[position] ^ 0x10):
            damaged = bytearray(stream)
            damaged[position] = value
            with suppress(SchemaError):
                measure(bytes(damaged), 1 << 30)


def test_streams_of_many_messages_are_rejected() -> None:
    """A stream of 300 record batches is not decoded."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA.agent) as writer:
        for _ in range(300):
            writer.write_table(table(1))
    with pytest.raises(SchemaError, match="more than 256"):
        measure(sink.getvalue().to_pybytes(), 1 << 30)


def request_of(sent: Batch | Hello) -> bytes:
    """Returns a request as it comes from the wire."""
    if isinstance(sent, Hello):
        return StreamRequest(hello=sent).SerializeToString()
    return StreamRequest(batch=sent).SerializeToString()


def test_requests_within_the_bounds_are_parsed() -> None:
    """A batch with Arrow, with messages or with containers, and a hello arrive unchanged."""
    bodies = Messages(messages=[b"\x0a\x00"] * limits.MAX_MESSAGES)
    updates = [container(1)] * limits.MAX_CONTAINERS
    for sent in (
        batch("b", table(50_000), account=account()),
        batch("b", table(0), messages=bodies, rows=limits.MAX_MESSAGES),
        Batch(batch_id="b", containers=updates),
    ):
        assert parse_request(request_of(sent)) == StreamRequest(batch=sent)
    assert parse_request(request_of(hello())) == StreamRequest(hello=hello())


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            batch("b", table(0), messages=Messages(messages=[b""] * 10_001), rows=1),
            "more than 10000 messages",
        ),
        (
            batch("b", table(0), messages=Messages(messages=[b"a" * (5 << 20)]), rows=1),
            "messages exceed 4194304 bytes",
        ),
        (Batch(batch_id="b", rows=1, containers=[Container()] * 1001), "containers exceed 1000"),
        (
            Batch(batch_id="b", rows=1, containers=[Container(name=b"a" * (300 << 10))]),
            "a container exceeds 262144 bytes",
        ),
    ],
)
def test_batch_that_costs_too_much_to_parse_is_rejected_alone(sent: Batch, message: str) -> None:
    """It has its id, so that the server can answer it, but no rows."""
    invalid = parse_request(request_of(sent))
    assert isinstance(invalid, InvalidRequest)
    assert message in invalid.reason
    assert invalid.batch is not None
    assert (invalid.batch.batch_id, invalid.batch.rows) == ("b", 1)
    assert invalid.batch.WhichOneof("body") is None
    assert not invalid.batch.containers


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 30,
        request_of(hello())[:-3],
        request_of(hello()) * 2,
        request_of(hello()) + request_of(batch("b", table(1))),
        request_of(Hello(node="n", boot_id="b" * (300 << 10))),
        request_of(Batch(batch_id="b" * (20 << 10))),
        request_of(hello()) + b"\x7a\x80\x80\x04" + bytes(64 << 10),
        b"\x0b\x0c",
    ],
    ids=[
        "empty",
        "endless_number",
        "cut_off",
        "two_hellos",
        "hello_and_batch",
        "long_hello",
        "long_head",
        "unknown_field",
        "group",
    ],
)
def test_unusable_request_is_not_parsed(data: bytes) -> None:
    """Its stream has to end."""
    invalid = parse_request(data)
    assert isinstance(invalid, InvalidRequest)
    assert invalid.batch is None


def test_memory_is_shared_by_nodes() -> None:
    """A node gets three quarters at most, and of those who wait, the one with least comes first."""

    async def share() -> None:
        budget = MemoryBudget(100)
        for _ in range(3):
            await budget.acquire("greedy", 25)
        fourth = asyncio.create_task(budget.acquire("greedy", 25))
        await asyncio.sleep(0)
        assert not fourth.done()
        await budget.acquire("modest", 20)
        large = asyncio.create_task(budget.acquire("new", 50))
        await asyncio.sleep(0)
        assert not large.done()
        budget.release("greedy", 25)
        await asyncio.sleep(0)
        assert not fourth.done()  # the new node's turn comes first
        budget.release("greedy", 25)
        await asyncio.wait_for(large, 1)
        fourth.cancel()
        await asyncio.gather(fourth, return_exceptions=True)
        budget.release("new", 50)
        await asyncio.wait_for(budget.acquire("other", 50), 1)

    asyncio.run(share())


def test_streams_are_bounded_in_all_and_of_each_agent() -> None:
    """An agent's ninth stream is rejected; an identity of many nodes is bounded by all streams."""
    agent = Identity("agent/node-1", frozenset({Role.AGENT}), "node-1")
    agents = Identity("agents/cluster", frozenset({Role.AGENTS}))
    streams = StreamLimits(20, math.inf)
    with ExitStack() as held:
        for _ in range(limits.MAX_STREAMS_PER_PEER):
            held.enter_context(streams.admit(agent))
        with pytest.raises(LimitError, match="agent/node-1 has 8 streams"):
            held.enter_context(streams.admit(agent))
        for _ in range(20 - limits.MAX_STREAMS_PER_PEER):
            held.enter_context(streams.admit(agents))
        with pytest.raises(LimitError, match="max_streams"):
            held.enter_context(streams.admit(agents))
    with streams.admit(agents), streams.admit(agent):
        pass


def test_stream_without_a_hello_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its place for a bounded time."""
    monkeypatch.setattr(agent_session, "HELLO_SECONDS", 0.01)
    identity = Identity("agents", frozenset({Role.AGENTS}))

    async def silence() -> AsyncIterator[StreamRequest]:
        await asyncio.Event().wait()
        yield StreamRequest()

    async def run() -> None:
        # Neither of the two is reached before the hello.
        session = AgentSession(None, None, identity)  # type: ignore[arg-type]
        async for _ in session.run(silence()):
            raise AssertionError("there is nothing to answer")

    with pytest.raises(TransportError, match="no hello"):
        asyncio.run(run())


def test_task_that_fails_is_restarted_and_reported() -> None:
    """It continues, and `failing` reports it, as `/readyz` does."""
    failures: Iterator[Callable[[], Exception]] = iter([lambda: OverflowError("too large")])
    before = COUNTED._value.get()

    async def work() -> None:
        for failure in failures:
            raise failure()

    async def run() -> None:
        supervisor = TaskSupervisor()
        assert supervisor.failing() == ""
        await asyncio.wait_for(supervisor.start("limited", work), 10)
        assert "task 'limited' failed and was restarted: OverflowError" in supervisor.failing()

    asyncio.run(run())
    assert COUNTED._value.get() == before + 1
