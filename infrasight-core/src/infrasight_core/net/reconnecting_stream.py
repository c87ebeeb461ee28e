"""Keeps a stream to a server or operator open by reopening it after every break."""

import asyncio
from abc import ABC, abstractmethod

import grpc
import grpc.aio
import structlog

from infrasight_core.errors import InfraSightError
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.peer import Peer

log = structlog.get_logger(__name__)
CONNECT_SECONDS = 20.0
_FIRST_PAUSE = 0.5  # seconds
_LONGEST_PAUSE = 30.0


class ReconnectingStream(ABC):
    """A stream that runs until it is cancelled; the peer may be unavailable for hours.

    Attributes:
        open: Whether the peer has answered on the current stream.
        reason: Why the stream is not open, in one line.

    Args:
        peer: The other process.
        role: Its role, for messages: `server` or `operator`.
    """

    def __init__(self, peer: Peer, role: str) -> None:
        self.open = False
        self.reason = "not connected yet"
        self._peer = peer
        self._role = role

    async def run(self) -> None:
        """Opens the stream again and again, until it is cancelled."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                await self._stream()
                self.reason = f"the {self._role} closed the stream"
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self.reason = _describe(error)
            except InfraSightError as error:  # for instance TLS files that are being replaced
                self.reason = str(error)
            finally:
                if self.open:
                    backoff.reset()
                self.open = False
            pause = backoff.next_pause()
            log.warning(
                f"no stream to the {self._role}",
                address=self._peer.address,
                reason=self.reason,
                retry_seconds=round(pause, 1),
            )
            await asyncio.sleep(pause)

    @abstractmethod
    async def _stream(self) -> None:
        """Opens a stream, sets `open` and `reason`, and returns when the stream has ended."""


def _describe(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    return f"{error.code().name}: {error.details()}"
