"""Runs tasks that belong together, and ends them for certain."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

CANCEL_SECONDS = 1.0  # after which a task that has not ended is cancelled again


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines until the first of them ends, and cancels the others.

    None of them can end unnoticed while the others go on.

    Raises:
        Exception: Whatever the coroutine raised that ended first.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(tasks)
    for task in tasks:
        if task in ended:
            task.result()


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels tasks, again and again until all have ended; their exceptions are dropped.

    A cancellation is lost if it arrives just when what the task awaits has ended: before Python
    3.12, `asyncio.wait_for` then returns as if nothing had happened.
    """
    tasks = set(tasks)
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
