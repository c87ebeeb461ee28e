"""The smallest agent: it sends what a test tells it to, and waits for the answers."""

import queue
from collections.abc import Iterator
from types import TracebackType

import grpc
from infrasight.v1.stream_pb2 import Batch, Hello, RejectionReason, StreamRequest, StreamResponse
from infrasight.v1.stream_pb2_grpc import EventServiceStub

_ANSWER_SECONDS = 60.0


class AgentClient:
    """A stream to a server; a context manager.

    Args:
        address: The server's.
        channel: A channel to it; None for a plaintext one.
    """

    def __init__(self, address: str, channel: grpc.Channel | None = None) -> None:
        self._channel = channel or grpc.insecure_channel(address)
        self._requests: queue.SimpleQueue[StreamRequest | None] = queue.SimpleQueue()
        self._answers: Iterator[StreamResponse] = EventServiceStub(self._channel).Stream(
            self._sent(), timeout=_ANSWER_SECONDS
        )

    def _sent(self) -> Iterator[StreamRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def send(self, message: Hello | Batch) -> None:
        """Sends a hello or a batch."""
        self._requests.put(
            StreamRequest(hello=message)
            if isinstance(message, Hello)
            else StreamRequest(batch=message)
        )

    def answer(self) -> StreamResponse:
        """The next answer; raises RpcError if the stream fails, StopIteration at its end."""
        return next(self._answers)

    def answers(self, number: int) -> dict[str, str]:
        """The next answers to batches: `stored`, or the reason's name, by batch id."""
        found = {}
        for _ in range(number):
            answer = self.answer()
            if answer.HasField("rejection"):
                found[answer.rejection.batch_id] = RejectionReason.Name(
                    answer.rejection.reason
                ).removeprefix("REJECTION_REASON_")
            else:
                found[answer.acknowledgement.batch_id] = "stored"
        return found

    def rest(self) -> list[StreamResponse]:
        """Whatever still comes until the stream ends, well or not."""
        found = []
        try:
            for answer in self._answers:
                found.append(answer)
        except grpc.RpcError:
            self._requests.put(None)
        return found

    def end(self) -> None:
        """Sends nothing more."""
        self._requests.put(None)

    def __enter__(self) -> "AgentClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        self._channel.close()
