"""Keeps a stream to a server or operator open by reopening it after every break.

The other process is not trusted: whatever it sends, at worst the stream breaks and is reopened.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter

from infrasight_core.errors import InfraSightError, ProtocolError
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.peer import Peer
from infrasight_core.net.peer_text import clean_text

log = structlog.get_logger(__name__)
CONNECT_SECONDS = 20.0
VIOLATIONS = Counter(
    "infrasight_stream_violations",
    "Messages of the server or operator that the protocol does not allow, or that this agent does "
    "not know.",
    ["peer", "violation"],
)
_FIRST_PAUSE = 0.5  # seconds
_LONGEST_PAUSE = 5.0  # the longest that a peer which is back waits for its agents
_STABLE_SECONDS = 10.0  # a useless stream that ends sooner does not shorten the pauses
_MOST_IGNORED = 1000  # messages of one stream that are ignored until it counts as broken
_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
_Message = TypeVar("_Message")


class ReconnectingStream(ABC):
    """A stream that runs until it is cancelled; the peer may be unavailable for hours.

    Attributes:
        open: Whether the peer has answered on the current stream.
        reason: Why the stream is not open, in one line.
        useful: Whether the peer has done what the current stream is for.

    Args:
        peer: The other process.
        role: Its role, for messages: `server` or `operator`.
        others: Further processes of that role. Each stream goes to the next of all of them.
    """

    def __init__(self, peer: Peer, role: str, others: Sequence[Peer] = ()) -> None:
        self.open = False
        self.reason = "not connected yet"
        self.useful = False
        self._peer = peer
        self._peers = deque([peer, *others])
        self._role = role
        self._ignored = 0

    async def run(self) -> None:
        """Opens the stream again and again, until it is cancelled.

        No error ends it. It pauses when it has tried each peer. The pauses grow until a stream has
        been useful or open for some time, and has ended in order.
        """
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        tried = 0
        while True:
            in_order = True
            self._ignored = 0
            self.useful = False
            began = time.monotonic()
            try:
                await self._stream()
                self.reason = f"the {self._role} closed the stream"
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self.reason = _describe(error)
            except asyncio.InvalidStateError:
                self.reason = f"the {self._role} ended the call at once"
            except InfraSightError as error:  # for instance TLS files that are being replaced
                in_order = not isinstance(error, ProtocolError)
                self.reason = str(error)
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                self.reason = "the call was cancelled"  # by gRPC, not by the agent
            except Exception as error:
                in_order = False
                self.reason = f"unexpected error: {clean_text(repr(error))}"
                log.exception("stream failed; it is opened again", peer=self._role)
            finally:
                is_stable = self.useful or time.monotonic() - began >= _STABLE_SECONDS
                if self.open and in_order and is_stable:
                    backoff.reset()
                self.open = False
            tried += 1
            pause = 0.0 if tried % len(self._peers) else backoff.next_pause()
            log.warning(
                f"no stream to the {self._role}",
                address=self._peer.address,
                reason=self.reason,
                retry_seconds=round(pause, 1),
            )
            self._peers.rotate(-1)
            self._peer = self._peers[0]
            await asyncio.sleep(pause)

    @abstractmethod
    async def _stream(self) -> None:
        """Opens a stream, sets `open` and `reason`, and returns when the stream has ended."""

    async def _read(
        self, call: "grpc.aio.StreamStreamCall[Any, Any]", message_class: type[_Message]
    ) -> _Message | None:
        """Returns the next message; None at the end of the stream.

        Raises:
            ProtocolError: The peer sent bytes that are not such a message.
        """
        message: object = await call.read()
        if message is _EOF:
            return None
        if not isinstance(message, message_class):  # gRPC returns None for bytes that it rejects
            raise self._violation("malformed", "bytes that are not a message of the protocol")
        return message

    async def _write(self, call: "grpc.aio.StreamStreamCall[Any, Any]", message: object) -> None:
        """Sends a message beside a reader; if the call has ended, it leaves that to the reader."""
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug("the call has ended; its last messages are read", reason=str(error))
            await asyncio.Event().wait()  # until the reader comes to the end of the call

    def _violation(self, violation: str, sent: str) -> ProtocolError:
        """Counts a violation of the protocol, and returns the error that breaks the stream.

        Args:
            violation: Its name in the metric.
            sent: What the peer sent.
        """
        VIOLATIONS.labels(self._role, violation).inc()
        return ProtocolError(f"the {self._role} sent {sent}")

    def _ignore(self, violation: str, sent: str) -> None:
        """Ignores and counts a message, as a peer of another version might send it.

        Raises:
            ProtocolError: The peer has sent too many of them on this stream.
        """
        error = self._violation(violation, sent)
        if self._ignored == 0:
            log.warning(
                "message ignored; further ones are only counted",
                peer=self._role,
                violation=violation,
                reason=str(error),
            )
        self._ignored += 1
        if self._ignored > _MOST_IGNORED:
            raise ProtocolError(f"{error}, and {_MOST_IGNORED} more messages to ignore")


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _describe(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    return f"{error.code().name}: {clean_text(error.details() or 'no reason given')}"
