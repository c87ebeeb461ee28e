"""Runs the tasks that write to the store; restarts each one that ends with an error."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from attrs import frozen
from infrasight_core.net.backoff import Backoff

from infrasight_server import metrics

log = structlog.get_logger(__name__)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_RECENT_SECONDS = 60.0


@frozen
class _Failure:
    error: str
    time: float


class TaskSupervisor:
    """Runs tasks that must not end before the server does."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Starts a task that ends when `run` returns, and calls `run` again when it raises.

        Args:
            name: Names the task in logs, metrics and `failing`.
            run: Continues where it failed when it is called again.
        """
        return asyncio.create_task(self._run(name, run), name=name)

    def failing(self) -> str:
        """Returns which tasks failed within the last minute, and why; "" if none did."""
        now = time.monotonic()
        return "; ".join(
            f"task {name!r} failed and was restarted: {failure.error}"
            for name, failure in sorted(self._failures.items())
            if now - failure.time < _RECENT_SECONDS
        )

    async def _run(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                await run()
            except Exception as error:
                self._failures[name] = _Failure(repr(error), time.monotonic())
                metrics.TASK_FAILURES.labels(name).inc()
                pause = backoff.next_pause()
                log.exception("task failed; restarting it", task=name, pause=pause)
                await asyncio.sleep(pause)
            else:
                return
