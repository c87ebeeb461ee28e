"""A stream of an agent that is opened again after every break, for as long as the agent runs."""

import asyncio
from abc import ABC, abstractmethod

import grpc
import grpc.aio
import structlog
from attrs import frozen

from infrasight_core.errors import InfraSightError
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.tls import TlsFiles

log = structlog.get_logger(__name__)
FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 30.0
CONNECT_SECONDS = 20.0


@frozen
class Peer:
    """Whom an agent streams to; see `sync_channel` for the three."""

    address: str
    tls: TlsFiles | None = None
    plaintext: bool = False


class ReconnectingStream(ABC):
    """Keeps a stream open for as long as it runs; the other side may be away for hours.

    Attributes:
        open: Whether the other side has answered by it.
        reason: Why it is not open, in one line.

    Args:
        peer: The other side.
        whom: What it is, for people.
    """

    def __init__(self, peer: Peer, whom: str) -> None:
        self._peer, self._whom = peer, whom
        self.open, self.reason = False, "not connected yet"

    async def run(self) -> None:
        """Streams until it is cancelled."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await self._stream()
                self.reason = f"the {self._whom} closed the stream"
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self.reason = _reason(error)
            except InfraSightError as error:  # TLS files that are just being replaced, say
                self.reason = str(error)
            finally:
                if self.open:
                    backoff.reset()
                self.open = False
            pause = backoff.next_pause()
            log.warning(
                f"no stream to the {self._whom}",
                address=self._peer.address,
                reason=self.reason,
                retry_seconds=round(pause, 1),
            )
            await asyncio.sleep(pause)

    @abstractmethod
    async def _stream(self) -> None:
        """Opens a stream, sets `open` and `reason`, and returns when it has ended."""


def _reason(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    return f"{error.code().name}: {error.details()}"
