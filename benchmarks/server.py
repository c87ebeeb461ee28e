"""The server under the batches of many agents: CPU per row, and the time to acknowledgement.

Simulated agents send recorded batches at a fixed rate over real gRPC streams to a server with its
embedded store. The CPU is that of the server's process and of the store's, not of the agents. A
server that is too slow for the rate acknowledges later and later.

usage: server.py [ROUNDS [ROWS_PER_SECOND]]   (1 round and 40,000 rows/s by default)
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio
from attrs import asdict, frozen
from infrasight.v1.stream_pb2 import Account, Batch, Hello, StreamRequest, StreamResponse
from infrasight.v1.stream_pb2_grpc import EventServiceStub
from infrasight_core.plugin.manager import PluginManager
from infrasight_testbed.fuzz import recorded
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.system import loopback_address, running_system
from rich.console import Console
from rich.table import Table

PROBE = "execve"
RATE = 40_000.0
_Call = grpc.aio.StreamStreamCall[StreamRequest, StreamResponse]


@frozen
class Size:
    """A fleet: its agents, and how many batches of how many rows each sends."""

    agents: int
    batches: int
    rows: int


SIZES = (Size(200, 20, 100), Size(4, 25, 10_000))


@frozen
class Result:
    """One round: µs of CPU per row, rows per second, seconds to acknowledgement."""

    server_us: float
    store_us: float
    rows_per_second: float
    median_seconds: float
    longest_seconds: float


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
    """Lets all agents send at a common rate; returns them when every batch is acknowledged."""
    schema = PluginManager.discover(enable=[PROBE]).schemas()[PROBE]
    template = recorded.event_batch(PROBE, schema, size.rows, time.time_ns())
    agents = [Agent(number, size, template) for number in range(size.agents)]
    await asyncio.gather(*(agent.connect(address) for agent in agents))
    interval = size.agents * size.rows / rate
    exchanges = [
        agent.exchange(interval * number / size.agents, interval)
        for number, agent in enumerate(agents)
    ]
    await asyncio.gather(*exchanges)
    return agents


def measured(size: Size, rate: float) -> Result:
    """Measures one round with a new server."""
    with tempfile.TemporaryDirectory() as folder, running_system(Path(folder)) as system:
        system.address = loopback_address()
        server = system.start_server("--probe", PROBE)
        pids = (server.pid, child_of(server.pid))
        asyncio.run(run_agents(system.address, Size(2, 2, size.rows), rate))  # imports, caches
        before = [cpu_seconds(pid) for pid in pids]
        began = time.monotonic()
        agents = asyncio.run(run_agents(system.address, size, rate))
        taken = [cpu_seconds(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
        rows = size.agents * size.batches * size.rows
        counted = system.query(f"SELECT count() AS rows FROM {PROBE}_events")[0]["rows"]
        assert int(counted) == rows + 4 * size.rows, counted
    seconds = sorted(second for agent in agents for second in agent.seconds)
    return Result(
        taken[0] / rows * 1e6,
        taken[1] / rows * 1e6,
        rows / (max(agent.last for agent in agents) - began),
        statistics.median(seconds),
        seconds[-1],
    )


def main(rounds: int, rate: float) -> None:
    """Prints the table, and then the same as one line of JSON."""
    table = Table(
        "agents",
        "rows a batch",
        "server µs/row",
        "store µs/row",
        "rows/s",
        "median s",
        "longest s",
        title=f"the server under {rate:,.0f} rows/s: CPU, and time to acknowledgement",
    )
    report = []
    for size in SIZES:
        results = []
        for number in range(rounds):
            results.append(measured(size, rate))
            print(f"{size}, round {number + 1} of {rounds}: {results[-1]}", file=sys.stderr)
        medians = {
            name: statistics.median(asdict(result)[name] for result in results)
            for name in asdict(results[0])
        }
        table.add_row(
            str(size.agents),
            f"{size.rows:,}",
            f"{medians['server_us']:.2f}",
            f"{medians['store_us']:.2f}",
            f"{medians['rows_per_second']:,.0f}",
            f"{medians['median_seconds']:.2f}",
            f"{medians['longest_seconds']:.2f}",
        )
        report.append({**asdict(size), **medians})
    Console().print(table)
    print(json.dumps(report))


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1,
        float(sys.argv[2]) if len(sys.argv) > 2 else RATE,
    )
