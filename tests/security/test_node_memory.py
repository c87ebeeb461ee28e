"""A compromised node sends little that is meant to take much of the server's memory."""

import queue
import threading
from collections.abc import Callable, Iterator

import grpc
import pyarrow as pa
import pytest
from infrasight.v1.stream_pb2 import Batch, Hello, Messages, StreamRequest
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.net import ipc
from infrasight_testbed.agent_client import AgentClient
from infrasight_testbed.execve_batches import batch, hello, table
from infrasight_testbed.process_memory import MIB, peak, reset_peak
from infrasight_testbed.system import Process, System, running_system, until

BOUND = 250 * MIB
"""The most memory that a request may take; each attack aims at 600 MiB or more."""
ATTACKER = "node-evil"
Connect = Callable[[str], AgentClient]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server process."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="module")
def server(system: System) -> Process:
    """The server process, with memory from which growth is measured."""
    process = system.start_server()
    send(system, hello(), batch("warm-up", table(50_000)))
    return process


def send(system: System, *messages: Hello | Batch, node: str = "") -> dict[str, str]:
    """Sends a hello and batches over a stream; returns the answers to the batches."""
    channel = grpc.insecure_channel(system.address, options=[("grpc.max_send_message_length", -1)])
    with AgentClient(system.address, channel) as agent:
        for message in messages:
            agent.send(message)
        agent.answer()
        return agent.answers(len(messages) - 1)


def other_node_is_served(system: System, batch_id: str) -> bool:
    """Returns whether the batch of another node is stored."""
    sent = batch(batch_id, table(10))
    return send(system, hello(node="node-good"), sent) == {batch_id: "stored"}


def zeros(mebibytes: int) -> pa.Array:
    """Returns one value of zeros; reading it takes no memory in this process."""
    size = mebibytes * MIB
    buffers = [None, pa.py_buffer(memoryview(b"\0\0\0\0" + size.to_bytes(4, "little")))]
    return pa.Array.from_buffers(pa.binary(), 1, [*buffers, pa.py_buffer(bytes(size))])


@pytest.mark.parametrize(
    "columns", [{"exe": 1200}, {"exe": 400, "filename": 400, "cwd": 400}], ids=["one", "several"]
)
def test_compressed_zeros_take_no_memory(
    system: System, server: Process, columns: dict[str, int]
) -> None:
    """A batch of some kilobytes that decompresses to 1.2 GB is rejected before that."""
    content = table(1, **{name: zeros(size) for name, size in columns.items()})
    bomb = batch("bomb", content)
    assert len(bomb.arrow) < MIB
    before = reset_peak(server.pid)
    assert send(system, hello(node=ATTACKER), bomb) == {"bomb": "MALFORMED"}
    assert peak(server.pid) - before < BOUND
    assert other_node_is_served(system, f"after-{len(columns)}")


def test_compressed_dictionary_takes_no_memory(system: System, server: Process) -> None:
    """The values of a dictionary are measured too."""
    names = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), zeros(1200))
    bomb = batch("bomb", table(1, comm=names))
    assert len(bomb.arrow) < MIB
    before = reset_peak(server.pid)
    assert send(system, hello(node=ATTACKER), bomb) == {"bomb": "MALFORMED"}
    assert peak(server.pid) - before < BOUND
    assert other_node_is_served(system, "after")


def test_claimed_sizes_are_not_believed(system: System, server: Process) -> None:
    """A buffer that claims to be 2^62 bytes after decompression is rejected at once."""
    stream = bytearray(ipc.to_bytes(*table(20_000).combine_chunks().to_batches()))
    magic = stream.index(b"\x28\xb5\x2f\xfd")  # of the first zstd frame
    stream[magic - 8 : magic] = (1 << 62).to_bytes(8, "little")
    forged = batch("forged", table(1), arrow=bytes(stream), rows=20_000)
    before = reset_peak(server.pid)
    with AgentClient(system.address) as agent:
        agent.send(hello(node=ATTACKER))
        agent.send(forged)
        agent.answer()
        rejection = agent.answer().rejection
    assert "exceed" in rejection.detail
    assert peak(server.pid) - before < BOUND


def test_millions_of_empty_messages_take_no_memory(system: System, server: Process) -> None:
    """15 million empty protobuf messages, two bytes each, are counted before they are parsed."""
    messages = Messages.FromString(b"\x0a\x00" * 15_000_000)
    flood = batch("flood", table(0), messages=messages, rows=15_000_000)
    before = reset_peak(server.pid)
    assert send(system, hello(node=ATTACKER), flood) == {"flood": "TOO_LARGE"}
    assert peak(server.pid) - before < BOUND
    assert other_node_is_served(system, "after-messages")


def test_hello_with_millions_of_probes_takes_no_memory(system: System, server: Process) -> None:
    """A hello that announces 10 million probes ends its stream, and nothing else."""
    raw = Hello(node=ATTACKER).SerializeToString() + b"\x22\x00" * 10_000_000
    before = reset_peak(server.pid)
    with pytest.raises(grpc.RpcError) as raised:
        raw_stream(system, b"\x0a" + varint(len(raw)) + raw)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert peak(server.pid) - before < BOUND
    assert other_node_is_served(system, "after-hello")


def test_millions_of_containers_take_no_memory(system: System, server: Process) -> None:
    """10 million empty container updates in one batch are counted before they are parsed."""
    raw = Batch(batch_id="flood").SerializeToString() + b"\x5a\x00" * 10_000_000
    before = reset_peak(server.pid)
    first = StreamRequest(hello=hello(node=ATTACKER)).SerializeToString()
    with pytest.raises(grpc.RpcError):
        raw_stream(system, first, b"\x12" + varint(len(raw)) + raw)
    assert peak(server.pid) - before < BOUND
    assert other_node_is_served(system, "after-containers")


def test_unread_answers_stop_the_server_from_reading(system: System, server: Process) -> None:
    """An agent that reads no answer can send a few thousand requests, and then no more."""
    count = 30_000
    taken = 0
    has_ended = threading.Event()

    def requests() -> Iterator[StreamRequest]:
        nonlocal taken
        yield StreamRequest(hello=hello(node=ATTACKER))
        for number in range(count):
            if has_ended.is_set():
                return
            taken += 1
            # Each answer repeats the id.
            yield StreamRequest(batch=Batch(batch_id=f"{number}-{'a' * 8000}"))

    before = reset_peak(server.pid)
    with grpc.insecure_channel(system.address) as channel:
        call = EventServiceStub(channel).Stream(requests())
        pauses: queue.SimpleQueue[int] = queue.SimpleQueue()

        def is_stopped() -> bool:
            pauses.put(taken)
            return taken == count or (pauses.qsize() > 20 and taken == pauses.get())

        until(is_stopped, "the agent has sent everything, or the server has stopped to read")
        has_ended.set()
        call.cancel()
    assert taken < count
    assert peak(server.pid) - before < BOUND
    assert other_node_is_served(system, "after-unread")


def raw_stream(system: System, *requests: bytes) -> list[bytes]:
    """Sends bytes as requests of a stream; returns the answers' bytes."""
    with grpc.insecure_channel(
        system.address, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        stream = channel.stream_stream("/infrasight.v1.EventService/Stream", bytes, bytes)
        return list(stream(iter(requests), timeout=60))


def varint(number: int) -> bytes:
    """Returns a number as protobuf encodes it."""
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])
