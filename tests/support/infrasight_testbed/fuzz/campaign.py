"""Runs the mutations against real processes, and compares the store with what was acknowledged."""

import asyncio
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from attrs import Factory, define
from infrasight.v1 import control_pb2
from infrasight.v1.stream_pb2 import (
    Batch,
    QueryRequest,
    RejectionReason,
    StreamRequest,
    StreamResponse,
)
from infrasight_core.plugin.manager import PluginManager

from infrasight_testbed.fuzz import recorded
from infrasight_testbed.fuzz.mutations import Mutator
from infrasight_testbed.process_memory import peak, reset_peak
from infrasight_testbed.process_tree import child_of
from infrasight_testbed.system import Process, System

NODE: Final = "node-fuzz"
_STREAMS: Final = 48
_QUERIES: Final = 4
_CALLS: Final = 8
_OPENING_ATTEMPTS: Final = 20
_ANSWER_SECONDS: Final = 60.0
_EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
_SERVICE: Final = "/infrasight.v1.EventService"
_CONTROL: Final = "/infrasight.v1.ControlService"
_UNPARSABLE: Final = "google.protobuf.message.DecodeError"
"""A part of gRPC's own answer to bytes that are no message."""
_FAILURES: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_OPTIONS: Final = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@define
class Result:
    """What a campaign found.

    Attributes:
        mutations: The mutated messages that were sent.
        outcomes: How often each answer came.
        crashes: The processes that ended, and calls that a handler's error ended.
        hangs: The messages without an answer.
        wrong_rows: Rows stored although no acknowledged batch accounts for them.
        missing_rows: Rows of acknowledged batches that are not stored.
        stored_rows: The rows stored.
        store_errors: Why the store rejected batches that had passed the server's checks.
        peak_bytes: The most resident memory of the server, its store, and the control service.
        seconds: How long it took.
    """

    mutations: int = 0
    outcomes: Counter[str] = Factory(Counter)
    crashes: list[str] = Factory(list)
    hangs: int = 0
    wrong_rows: int = 0
    missing_rows: int = 0
    stored_rows: int = 0
    store_errors: list[str] = Factory(list)
    peak_bytes: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0.0


class Campaign:
    """Mutates recorded messages and sends them.

    Args:
        seed: Equal seeds send equal messages, in another order.
        report: Called now and then with a line about the progress.
    """

    def __init__(self, seed: int, report: Callable[[str], None] = lambda line: None) -> None:
        self._mutator = Mutator(seed)
        self._report = report
        self._schemas = PluginManager.discover().schemas()
        self._batches = list(recorded.batches(self._schemas))
        self._hello = StreamRequest(hello=recorded.hello(NODE, self._schemas)).SerializeToString()
        self._result = Result()
        self._acknowledged: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._sent = 0

    def run(self, folder: Path, mutations: int) -> Result:
        """Starts the processes in a folder and sends the mutations: 70 % to the stream.

        Args:
            folder: An empty folder.
            mutations: How many messages are mutated and sent.
        """
        began = time.monotonic()
        system = System(folder)
        streams = mutations * 7 // 10
        queries = (mutations - streams) // 2
        try:
            server = system.start_server(
                *("--linger-seconds", "0.1", "--query-seconds", "5", "--log-level", "error")
            )
            with _control_process(folder) as (control, address):
                pids = (server.pid, child_of(server.pid), control.pid)
                for pid in pids:
                    reset_peak(pid)
                asyncio.run(self._send_all(system.address, streams, queries))
                asyncio.run(self._send_control(address, mutations - streams - queries))
                self._check_processes(server, control)
                self._result.peak_bytes = (peak(pids[0]), peak(pids[1]), peak(pids[2]))
            self._compare(system)
        finally:
            system.stop()
        self._result.seconds = time.monotonic() - began
        return self._result

    async def _send_all(self, address: str, streams: int, queries: int) -> None:
        async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
            await self._share(streams, _STREAMS, lambda count: self._stream(channel, count))
            await self._share(queries, _QUERIES, lambda count: self._query(channel, count))
            await self._send_good_batch(channel)

    async def _send_control(self, address: str, mutations: int) -> None:
        async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
            await self._share(mutations, _CALLS, lambda count: self._control(channel, count))

    async def _share(
        self, mutations: int, workers: int, work: Callable[[int], Awaitable[None]]
    ) -> None:
        counts = [
            mutations // workers + (number < mutations % workers) for number in range(workers)
        ]
        await asyncio.gather(*(work(count) for count in counts))

    async def _stream(self, channel: grpc.aio.Channel, count: int) -> None:
        """Sends mutated requests; a stream that ends is opened again."""
        while count:
            call = await self._open(channel)
            while count:
                count -= 1
                request = self._next_request()
                answer = await self._exchange(call, request)
                if answer is None:
                    break
                self._note(request, answer)
            else:
                await call.done_writing()
            call.cancel()

    async def _open(self, channel: grpc.aio.Channel) -> Any:
        """Opens a stream; the connection has no room for one before ended ones are cleared."""
        for attempt in range(_OPENING_ATTEMPTS):
            call: Any = channel.stream_stream(f"{_SERVICE}/Stream", bytes, bytes)(None)
            try:
                await call.write(self._hello)
                await call.read()
                return call
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await asyncio.sleep(0.1 * attempt)
        raise AssertionError("no stream can be opened: the server has ended, or is stuck")

    async def _exchange(self, call: Any, request: bytes) -> bytes | None:
        """Returns the answer to a request; None if the stream ended."""
        self._count()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await call.write(request)
                answer = await call.read()
                if answer is not _EOF:
                    return bytes(answer)
                self._note_status("stream", await call.code(), await call.details())
        except TimeoutError:
            self._result.hangs += 1
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._note_status("stream", await call.code(), await call.details())
        return None

    def _next_request(self) -> bytes:
        batch = Batch()
        batch.CopyFrom(self._mutator.random.choice(self._batches))
        prefix = "containers" if batch.containers else f"{self._sent:x}"
        batch.batch_id = f"{prefix}-{batch.batch_id.split('-')[1]}-{self._sent:x}"
        batch.retry = self._mutator.random.random() < 0.1
        if self._mutator.random.random() < 0.03:
            return self._mutator.mutate(self._hello)
        return self._mutator.mutate(StreamRequest(batch=batch).SerializeToString())

    def _note(self, request: bytes, answer: bytes) -> None:
        response = StreamResponse.FromString(answer)
        kind = str(response.WhichOneof("message"))
        if response.HasField("rejection"):
            reason = response.rejection.reason
            kind = f"rejected: {RejectionReason.Name(reason)[17:].lower()}"
            if reason == RejectionReason.REJECTION_REASON_STORE_ERROR:
                self._result.store_errors.append(response.rejection.detail)
        self._result.outcomes[kind] += 1
        if response.HasField("acknowledgement"):
            batch = StreamRequest.FromString(request).batch
            if batch.rows:
                self._acknowledged[batch.probe, batch.batch_id].append(batch.rows)

    async def _query(self, channel: grpc.aio.Channel, count: int) -> None:
        statements = list(recorded.QUERIES)
        method = channel.unary_stream(f"{_SERVICE}/Query", bytes, bytes)
        for _ in range(count):
            sql = self._mutator.mutate_text(self._mutator.random.choice(statements), statements)
            request = QueryRequest(sql=sql).SerializeToString()
            if self._mutator.random.random() < 0.3:
                request = self._mutator.mutate(request)
            await self._call("query", method, request)

    async def _control(self, channel: grpc.aio.Channel, count: int) -> None:
        reports = [control_pb2.FollowRequest(report=report) for report in recorded.reports()]
        node = control_pb2.GetConfigurationRequest(node="node-1").SerializeToString()
        for _ in range(count):
            if self._mutator.random.random() < 0.2:
                method = channel.unary_stream(f"{_CONTROL}/GetConfiguration", bytes, bytes)
                await self._call("control", method, self._mutator.mutate(node))
                continue
            report = self._mutator.random.choice(reports).SerializeToString()
            stream = channel.stream_stream(f"{_CONTROL}/Follow", bytes, bytes)
            await self._call("control", stream, _once(self._mutator.mutate(report)))

    async def _call(self, kind: str, method: Callable[..., Any], request: Any) -> None:
        self._count()
        call = method(request)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while await call.read() is not _EOF:
                    continue
        except TimeoutError:
            self._result.hangs += 1
            call.cancel()
            return
        except grpc.aio.AioRpcError as error:
            self._note_status(kind, error.code(), error.details() or "")
            return
        self._note_status(kind, await call.code(), await call.details())

    def _note_status(self, kind: str, code: grpc.StatusCode, details: str) -> None:
        if _UNPARSABLE in details:
            self._result.outcomes[f"{kind}: unparsable"] += 1
            return
        self._result.outcomes[f"{kind}: {code.name.lower()}"] += 1
        if code in _FAILURES:
            self._result.crashes.append(f"{kind}: {code.name}: {details[:300]}")

    def _count(self) -> None:
        self._sent += 1
        self._result.mutations = self._sent
        if self._sent % 10_000 == 0:
            self._report(f"{self._sent} mutations: {dict(self._result.outcomes)}")

    async def _send_good_batch(self, channel: grpc.aio.Channel) -> None:
        """Checks that an unchanged batch is still stored."""
        call = await self._open(channel)
        request = StreamRequest(batch=self._batches[0]).SerializeToString()
        await call.write(request)
        answer = await call.read()
        self._note(request, answer)
        if not StreamResponse.FromString(answer).HasField("acknowledgement"):
            self._result.crashes.append("a valid batch is no longer stored")
        await call.done_writing()

    def _check_processes(self, server: Process, control: "subprocess.Popen[str]") -> None:
        if server.get("healthz") != "ok\n":
            self._result.crashes.append(f"the server has ended: {server.log()[-500:]}")
        elif not server.get("readyz").startswith("ready") or server.metric(
            "infrasight_server_task_failures_total"
        ):
            self._result.crashes.append(f"a task has ended: {server.get('readyz')}")
        if control.poll() is not None:
            self._result.crashes.append(f"the control service has ended: {control.returncode}")

    def _compare(self, system: System) -> None:
        """Compares the stored rows with the acknowledged batches."""
        for probe in self._schemas:
            stored: dict[str, int] = {}
            rows = system.query(
                f"SELECT batch_id, count() AS n, countIf(node != '{NODE}' OR time > now() + 86400 "
                f"OR time < now() - 86400 * 367) AS wrong FROM {probe}_events GROUP BY batch_id"
            )
            for row in rows:
                stored[row["batch_id"]] = int(row["n"])
                self._result.stored_rows += int(row["n"])
                self._result.wrong_rows += int(row["wrong"])
            self._compare_probe(probe, stored)

    def _compare_probe(self, probe: str, stored: dict[str, int]) -> None:
        batch_ids = {batch_id for name, batch_id in self._acknowledged if name == probe}
        for batch_id in batch_ids | stored.keys():
            acknowledged = self._acknowledged.get((probe, batch_id), [0])
            rows = stored.get(batch_id, 0)
            # An id that mutations made twice is stored once or twice.
            self._result.wrong_rows += max(rows - sum(acknowledged), 0)
            self._result.missing_rows += max(max(acknowledged) - rows, 0)


@contextmanager
def _control_process(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, str(Path(__file__).with_name("control_process.py"))]
    with (folder / "control.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request
