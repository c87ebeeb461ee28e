"""Simulated agents, which send recorded batches to a server over real gRPC streams."""

import asyncio
import time
from collections.abc import Sequence

import grpc.aio
from attrs import frozen
from infrasight.v1.stream_pb2 import Account, Batch, Hello, StreamRequest, StreamResponse
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.net import ipc
from infrasight_core.plugin.manager import PluginManager

from infrasight_testbed.fuzz import recorded

PROBE = "execve"
_Call = grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]


@frozen
class Size:
    """A fleet: its agents, and how many batches of how many rows each sends."""

    agents: int
    batches: int
    rows: int


class Agent:
    """A simulated agent, whose requests are ready before it starts.

    Args:
        number: Tells the agents apart.
        size: What it sends.
        template: A recorded batch.
    """

    def __init__(self, number: int, size: Size, template: Batch) -> None:
        hello = Hello(node=f"node-{number}", boot_id="8f3c", agent_version="1.0")
        self._hello = StreamRequest(hello=hello)
        run, window, _ = template.batch_id.split("-", 2)
        self._requests: dict[str, StreamRequest] = {}
        for position in range(1, size.batches + 1):
            batch = Batch()
            batch.CopyFrom(template)
            batch.batch_id = f"{run}{number:04x}-{window}-{number}-{position}"
            rows = position * size.rows
            account = Account(run=f"{run}{number:04x}", window=int(window), number=position)
            account.seen = account.submitted = account.read = rows
            batch.account.CopyFrom(account)
            self._requests[batch.batch_id] = StreamRequest(batch=batch)
        self._sent: dict[str, float] = {}
        self.seconds: list[float] = []
        self.last = 0.0

    async def connect(self, address: str) -> None:
        """Opens the stream and waits for the welcome."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 1 << 26)]
        self._channel = grpc.aio.insecure_channel(address, options)
        self._call: _Call = EventServiceStub(self._channel).Stream()
        await self._call.write(self._hello)
        assert (await self._read()).HasField("welcome")

    async def exchange(self, delay: float, interval: float) -> None:
        """Sends a batch each interval, the first after a delay, and waits for all answers."""
        await asyncio.gather(self._send(time.monotonic() + delay, interval), self._receive())
        await self._call.done_writing()
        await self._channel.close(None)

    async def _send(self, due: float, interval: float) -> None:
        for batch_id, request in self._requests.items():
            await asyncio.sleep(due - time.monotonic())
            self._sent[batch_id] = max(due, time.monotonic())
            await self._call.write(request)
            due += interval

    async def _receive(self) -> None:
        for _ in self._requests:
            answer = await self._read()
            assert answer.HasField("acknowledgement"), answer
            self.last = time.monotonic()
            self.seconds.append(self.last - self._sent[answer.acknowledgement.batch_id])

    async def _read(self) -> StreamResponse:
        answer = await self._call.read()
        assert isinstance(answer, StreamResponse), "the server has ended the stream"
        return answer


async def run_agents(address: str, size: Size, rate: float) -> list[Agent]:
    """Lets new agents send at a common rate; returns them when every batch is acknowledged."""
    agents = await connect_agents(address, size)
    await exchange(agents, size, rate)
    return agents


async def connect_agents(address: str, size: Size, first: int = 0) -> list[Agent]:
    """Returns connected agents, which are numbered from `first`."""
    schema = PluginManager.discover(enable=[PROBE]).schemas()[PROBE]
    template = recorded.event_batch(PROBE, schema, size.rows, time.time_ns())
    table = ipc.from_bytes(template.arrow).combine_chunks()
    template.arrow = ipc.to_frame(*table.to_batches())  # as an agent sends it
    agents = [Agent(first + number, size, template) for number in range(size.agents)]
    await asyncio.gather(*(agent.connect(address) for agent in agents))
    return agents


async def exchange(agents: Sequence[Agent], size: Size, rate: float) -> None:
    """Lets agents send so many rows per second together, until every batch is acknowledged."""
    interval = size.agents * size.rows / rate
    exchanges = [
        agent.exchange(interval * number / size.agents, interval)
        for number, agent in enumerate(agents)
    ]
    await asyncio.gather(*exchanges)
