"""Tasks that belong together: running and ending them."""

import asyncio

import pytest
from infrasight_core.errors import ProtocolError
from infrasight_core.net.tasks import cancel_all, run_together


def test_cancel_all_ends_a_task_that_loses_its_first_cancellation() -> None:
    """A task that goes on after a cancellation is cancelled again, so that all end."""

    async def run() -> asyncio.Task[None]:
        async def lose_one_cancellation() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

        task = asyncio.create_task(lose_one_cancellation())
        await asyncio.sleep(0)
        await cancel_all([task])
        return task

    assert asyncio.run(run()).cancelled()


def test_coroutines_run_together_end_together() -> None:
    """The first that fails ends the others, and its error is raised."""
    cancelled = asyncio.Event()

    async def fail() -> None:
        raise ProtocolError("the server sent nonsense")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ProtocolError, match="nonsense"):
        asyncio.run(run_together(wait(), fail()))
    assert cancelled.is_set()
