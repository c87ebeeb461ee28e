"""Admits gRPC calls by role, and ends open calls whose peer has lost its access."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import grpc.aio
import structlog

from infrasight_core.errors import AccessError
from infrasight_core.net.identity import Identity, Role

log = structlog.get_logger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
Response = TypeVar("Response")
RECHECK_SECONDS = 5.0


class CallGuard:
    """Knows the open calls of a gRPC service.

    Args:
        identify: Returns the peer of a call; raises AccessError.
    """

    def __init__(self, identify: Callable[[Context], Identity]) -> None:
        self._identify = identify
        self._calls: set[_OpenCall] = set()

    def admit(self, context: Context, *roles: Role) -> Identity:
        """Returns the peer of a call.

        Raises:
            AccessError: The peer is unknown or has none of the roles.
        """
        try:
            identity = self._identify(context)
            identity.require(*roles)
        except AccessError as error:
            log.warning("call rejected", peer=context.peer(), reason=str(error))
            raise
        return identity

    async def serve(
        self,
        context: Context,
        handler: Callable[[Identity], AsyncIterator[Response]],
        *roles: Role,
    ) -> AsyncIterator[Response]:
        """Yields the responses of a call while its peer keeps its access.

        Args:
            context: The call.
            handler: An async generator function, which gets the peer and yields the responses.
            roles: The roles of which the peer needs one.

        Raises:
            AccessError: The peer has none of the roles, or has lost its access, for example because
                its certificate was revoked.
        """
        identity = self.admit(context, *roles)
        call = _OpenCall(context, identity)
        self._calls.add(call)
        try:
            async with aclosing(handler(identity)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    call.task = None
                    yield response
                    call.enter()
        except asyncio.CancelledError:
            if call.task is None or call.ended_by is None:
                raise
            call.task.uncancel()
            raise call.ended_by from None
        finally:
            self._calls.discard(call)

    async def run(self) -> None:
        """Checks the peers of open calls again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            self.recheck()

    def recheck(self) -> None:
        """Ends the open calls whose peers have lost their access."""
        for call in list(self._calls):
            try:
                identity = self._identify(call.context)
                if identity != call.identity:
                    raise AccessError(f"{call.identity.name} is now {identity.name}")
            except AccessError as error:
                log.warning("call ended", peer=call.identity.name, reason=str(error))
                call.end(error)
            except Exception:  # the checks of the other calls go on
                log.exception("cannot check an open call", peer=call.identity.name)


class _OpenCall:
    """An open call.

    Attributes:
        task: The task while it waits for the next response. A task that sends one must not be
            cancelled: gRPC would leave the call open.
        ended_by: Why the call is to end.
    """

    def __init__(self, context: Context, identity: Identity) -> None:
        self.context = context
        self.identity = identity
        self.ended_by: AccessError | None = None
        self.task = asyncio.current_task()

    def enter(self) -> None:
        """Notes that the task has sent a response. Raises AccessError if the call is to end."""
        self.task = asyncio.current_task()
        if self.ended_by is not None:
            raise self.ended_by

    def end(self, error: AccessError) -> None:
        """Ends the call; one that sends a response ends after it."""
        if self.ended_by is not None:
            return
        self.ended_by = error
        if self.task is not None:
            self.task.cancel()
