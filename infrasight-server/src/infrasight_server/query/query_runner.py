"""Runs users' queries: guarded, a few at a time, answered in pieces of bounded size.

A call is bounded as a whole: its time includes waiting for a slot and for a client that reads
slowly. Its slot is free again when the store has ended the query, which the client's departure or
the end of the time brings about.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress

from infrasight_core.errors import (
    InfraSightError,
    LimitError,
    QueryError,
    StoreError,
    StoreUnavailableError,
)
from infrasight_core.net import ipc

from infrasight_server.metrics import QUERIES, QUERIES_RUNNING
from infrasight_server.query.error_text import readable
from infrasight_server.query.guard import Guard
from infrasight_server.query.pieces import pieces
from infrasight_server.query.query_slots import QuerySlots, SlotLimits
from infrasight_server.store.clickhouse import Store

_CANCEL_SECONDS = 0.2
_STOP_SECONDS = 5.0


class QueryRunner:
    """Runs queries in worker threads.

    Args:
        store: The store.
        seconds: The longest time of a call.
        slots: How many queries run and wait.
    """

    def __init__(self, store: Store, seconds: float, slots: SlotLimits) -> None:
        self._store = store
        self._guard = Guard(store)
        self._seconds = seconds
        self._slots = QuerySlots(slots)
        self._threads = ThreadPoolExecutor(slots.running, "query")
        self._ending: set[asyncio.Task[None]] = set()

    @contextmanager
    def open_call(self, peer: str) -> Iterator[None]:
        """Counts a call of a peer while the body runs, which ends when the client knows its end.

        Raises:
            LimitError: The peer has too many open calls.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._slots.open_call(peer))
            except LimitError:
                QUERIES.labels("busy").inc()
                raise
            yield

    async def run(self, peer: str, sql: str, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Sends the answer as complete Arrow IPC streams, one at least.

        Args:
            peer: The name of the peer that asks.
            sql: The statement.
            send: Sends one piece; returns when there is room for the next one.

        Raises:
            QueryError: The guard or the store rejects the statement, or the query fails.
            LimitError: Too many queries wait.
            StoreUnavailableError: The store does not answer.
        """
        outcome = "cancelled"
        try:
            async with asyncio.timeout(self._seconds):
                await self._run(peer, sql, send)
            outcome = "answered"
        except TimeoutError as error:
            outcome = "timeout"
            raise QueryError(
                f"the query and the transfer of its answer took longer than {self._seconds:g} s; "
                "select less, or read the answer faster"
            ) from error
        except InfraSightError as error:
            outcome = _outcome(error)
            raise type(error)(readable(str(error), sql)) from error
        finally:
            QUERIES.labels(outcome).inc()

    async def stop(self) -> None:
        """Waits shortly until the store has ended the cancelled queries; accepts no more."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=_STOP_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, peer: str, sql: str, send: Callable[[bytes], Awaitable[None]]) -> None:
        await self._slots.acquire(peer)
        query = _Query(self._store, self._guard, sql, self._threads)
        try:
            with QUERIES_RUNNING.track_inprogress():
                while (piece := await query.next()) is not None:
                    await send(piece)
        finally:
            # A separate task: the caller may be gone, and need not wait.
            task = asyncio.create_task(self._end(query, peer))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, query: "_Query", peer: str) -> None:
        try:
            await query.end()
        finally:
            self._slots.release(peer)


class _Query:
    """One query; its blocking parts run in a thread, one after the other."""

    def __init__(self, store: Store, guard: Guard, sql: str, threads: ThreadPoolExecutor) -> None:
        self._store = store
        self._guard = guard
        self._sql = sql
        self._threads = threads
        self._id = uuid.uuid4().hex
        self._pieces = self._answer()
        self._step: Future[bytes | None] | None = None

    async def next(self) -> bytes | None:
        """Returns the next piece of the answer; None after the last one."""
        self._step = self._threads.submit(next, self._pieces, None)
        return await asyncio.wrap_future(self._step)

    async def end(self) -> None:
        """Ends the query in the store, and returns when nothing of it runs any more."""
        while self._step is not None and not self._step.done():
            # A statement that has not begun cannot be cancelled yet.
            with suppress(StoreError):
                await asyncio.to_thread(self._store.cancel, self._id)
            await asyncio.to_thread(wait, [self._step], _CANCEL_SECONDS)
        with suppress(InfraSightError):
            await asyncio.wrap_future(self._threads.submit(self._pieces.close))

    def _answer(self) -> Generator[bytes, None, None]:
        statement = self._guard.judge(self._sql)
        try:
            for batch in self._store.query(statement, query_id=self._id):
                for piece in pieces(batch):
                    yield ipc.to_bytes(piece)
        except ValueError as error:
            raise QueryError(
                f"the answer cannot be sent as Arrow: {error}; rename its columns"
            ) from error


def _outcome(error: InfraSightError) -> str:
    if isinstance(error, LimitError):
        return "busy"
    return "unavailable" if isinstance(error, StoreUnavailableError) else "failed"
